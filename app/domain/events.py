"""Known breaks in PyPI's figures: outages, and changes of what is counted.

Days can be compared only if they were counted by the same definition of a download.
`KnownEvents.definition` decides which days these are.
"""

import datetime as dt
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.functional_validators import model_validator

from app.domain.days import Day

ARTIFACTS_SINCE = dt.date(2026, 8, 24)
"""The day on which PyPI began to count only artifacts. Both rules apply to parts of this day."""


class CountedFiles(StrEnum):
    """Rule that decides which files' downloads count."""

    ALL = "all"
    """All files that PyPI logged."""

    ARTIFACTS = "artifacts"
    """Files that end in .whl, .tar.gz or .zip. PyPI logs only these since `ARTIFACTS_SINCE`."""


class EventKind(StrEnum):
    DEFINITION = "definition"
    OUTAGE = "outage"


# Without `strict`, a number such as 20260501 would count as seconds since 1970.
_Day = Annotated[Day, Field(strict=True)]


class Event(BaseModel):
    """A known break in PyPI's figures."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)

    date: _Day = Field(description="First UTC day that is affected.")
    end_date: _Day | None = Field(
        default=None,
        description="Last UTC day that is affected. Null while an outage lasts, and for a "
        "definition that is permanent.",
    )
    kind: EventKind = Field(
        description="`definition`: PyPI counts something else as a download from this day on, so "
        "that days before and after it are not comparable. `outage`: downloads were lost."
    )
    summary: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(
        description="What happened, for readers of a chart."
    )
    url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] = Field(
        description="Address with more information."
    )

    @model_validator(mode="after")
    def _check_order(self) -> "Event":
        if self.end_date and self.end_date < self.date:
            raise ValueError("end_date should not be before date")
        return self

    def is_within(self, first: dt.date, last: dt.date) -> bool:
        """Return True if a chart of these days shows the event. A permanent definition is shown
        only on its first day.
        """
        is_step = self.kind is EventKind.DEFINITION and self.end_date is None
        end = self.date if is_step else self.end_date or dt.date.max
        return self.date <= last and first <= end


class _EventsFile(BaseModel):
    events: tuple[Event, ...]


def read_events(path: str | Path) -> tuple[Event, ...]:
    """Return the events of a TOML file. Raises a `ValueError` that describes the first error."""
    try:
        # Editors on Windows begin a file with a byte order mark.
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"should name a file that can be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"should name a TOML file ({error})") from None
    try:
        return _EventsFile.model_validate(tables, extra="forbid").events
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{_place(first['loc'])}: {message}") from None


def _place(location: tuple[int | str, ...]) -> str:
    if len(location) < 2 or not isinstance(location[1], int):
        return ".".join(map(str, location))
    name = f"[[events]] number {location[1] + 1}"
    return ", ".join([name, *map(str, location[2:])])


Definition = frozenset[tuple[tuple[dt.date, dt.date | None], bool]]
"""The changes that apply to a day: the first and the last date of each, and True if the change
applies to only a part of the day.
"""


class KnownEvents:
    """The known events of PyPI and of the operator."""

    def __init__(self, own: Iterable[Event] = ()) -> None:
        events = {*_BUILT_IN, *own}
        self.newest_first = sorted(
            events, key=lambda event: (event.date, event.end_date or dt.date.max, event.summary)
        )[::-1]
        content = repr([event.model_dump_json() for event in self.newest_first])
        self.digest = blake2b(content.encode(), digest_size=8).hexdigest()
        """Hash of all events."""

    def within(self, first: dt.date, last: dt.date) -> list[Event]:
        """Return the events that a chart of these days shows, newest first."""
        return [event for event in self.newest_first if event.is_within(first, last)]

    def are_comparable(self, days: Mapping[dt.date, CountedFiles]) -> bool:
        """Return True if all of these days, counted by these rules, have the same definition."""
        return len({self.definition(day, rule) for day, rule in days.items()}) <= 1

    def definition(self, day: dt.date, counted_files: CountedFiles) -> Definition:
        """Return the definition of a download on a day. Days with equal definitions are comparable.

        On the first and the last day of a change, both definitions apply to a part of the day, so
        these days have a definition of their own.
        """
        changes = {
            (event.date, event.end_date): day in (event.date, event.end_date)
            for event in self.newest_first
            if event.kind is EventKind.DEFINITION
            and event.date <= day <= (event.end_date or dt.date.max)
        }
        if counted_files == CountedFiles.ARTIFACTS:
            # Such a day is not affected by PyPI's change, whether it is before or after the change.
            changes[ARTIFACTS_SINCE, None] = False
        return frozenset(changes.items())


_BUILT_IN = read_events(Path(__file__).with_name("events.toml"))
