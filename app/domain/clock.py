"""The clock, which code takes as an argument so that tests choose the time."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the current time in UTC."""


def utc_now() -> datetime:
    """Return the current time of the machine's clock, in UTC."""
    return datetime.now(UTC)
