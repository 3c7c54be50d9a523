"""The time that tests pass to the code."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
"""The time of every test that does not choose another.

It is in the past, so that days of the tests are complete by the machine's clock too.
"""


@dataclass
class ManualClock:
    """A `Clock` that stands still until a test moves it."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        """Move the clock by the given `days`, `hours`, `minutes` or `seconds`."""
        self.now += timedelta(**duration)
