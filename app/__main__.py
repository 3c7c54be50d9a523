"""The entry point of `pypi-stats` and of `python -m app`."""

import signal

# Until the command line is loaded, Ctrl-C ends the process without a message.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from app.cli.program import main

if __name__ == "__main__":
    main()
