"""The program with the clock of the tests: `python -m tests.command ARGUMENTS`."""

from app.domain import clock
from tests.clock import ManualClock

# Modules bind the clock as they are imported.
clock.utc_now = ManualClock()

from app.cli.program import main  # noqa: E402

if __name__ == "__main__":
    main()
