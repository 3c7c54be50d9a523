"""Parses days that clients of the API and operators write."""

import re
from datetime import date

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
