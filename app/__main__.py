import signal

# Until the command line is there to tell of it, Ctrl-C just ends the process: nothing has begun.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from app.cli.program import main

main()
