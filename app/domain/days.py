"""UTC days."""

import re
from datetime import UTC, date, datetime, time, timedelta

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def parse_day(text: str) -> date:
    """Parse a day such as 2026-11-20. Raises a `ValueError` that describes the format."""
    try:
        # `fromisoformat` accepts other spellings too.
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError("should be a day such as 2026-11-20")


def end_of(day: date) -> datetime:
    """Return the moment at which a day ends."""
    return datetime.combine(day + timedelta(days=1), time(), UTC)
