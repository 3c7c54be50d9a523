"""UTC days."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

from pydantic import BeforeValidator

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def parse_day(text: str) -> date:
    """Parse a day such as 2026-11-20. Raises a `ValueError` that describes the format."""
    # `fromisoformat` would also accept other spellings.
    if _DAY.fullmatch(text):
        with suppress(ValueError):
            return date.fromisoformat(text)
    raise ValueError("should be a day such as 2026-11-20")


Day = Annotated[
    date, BeforeValidator(lambda value: parse_day(value) if isinstance(value, str) else value)
]
"""A day in a model. `parse_day` parses texts."""


def start_of(day: date) -> datetime:
    """Return the moment at which a day begins."""
    return datetime.combine(day, time(), UTC)


def end_of(day: date) -> datetime:
    """Return the moment at which a day ends."""
    return start_of(day + timedelta(days=1))
