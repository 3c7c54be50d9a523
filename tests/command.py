"""The program with the clock of the tests."""

from datetime import datetime

from app.domain import clock
from tests.clock import NOW

machine_now = clock.utc_now


class ProgramClock:
    """A clock that stands still at `NOW`, or follows the machine's."""

    follows_machine = False

    def __call__(self) -> datetime:
        return machine_now() if self.follows_machine else NOW


# Modules bind the clock as they are imported.
clock.utc_now = ProgramClock()

from app.cli.program import main  # noqa: E402

__all__ = ["main"]
