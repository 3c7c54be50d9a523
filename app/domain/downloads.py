"""What the parts hand each other: downloads of a package, and days that were published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from app.domain.breakdowns import Breakdown
from app.domain.events import CountedFiles

Counts = Mapping[str, int]
"""Downloads by category."""


class PackageDownloads(NamedTuple):
    """One package's downloads of one day, counted by the rules in `bigquery.sql`."""

    package: str
    """Normalised name."""

    with_mirrors: int
    without_mirrors: int

    breakdowns: Mapping[str, Counts]
    """By column, `without_mirrors` divided into categories. None is zero."""


@dataclass(frozen=True, slots=True)
class UnparsedDownloads:
    """Some packages' downloads of one day, column by column, from a source that has counts as text.
    Most packages have few downloads, and so the same text as many others.
    """

    packages: Sequence[str]
    with_mirrors: Sequence[int]
    without_mirrors: Sequence[int]

    breakdowns: Sequence[Sequence[str]]
    """By the columns of the reading, of each package the inside of a JSON object of downloads by
    category.
    """

    def __len__(self) -> int:
        return len(self.packages)


Batch = Sequence[PackageDownloads] | UnparsedDownloads
"""Some rows of a day."""


@dataclass(frozen=True, slots=True)
class RecentDownloads:
    """Downloads in the days that end with the latest published one: 1, 7 and 30. No mirrors."""

    last_day: int
    last_week: int
    last_month: int


Series = Mapping[str, list[tuple[date, int]]]
"""By category, its days with downloads in order, and how many."""


class Window(NamedTuple):
    """Days, both ends included. There is none when it ends before it begins."""

    first: date
    last: date

    def within(self, first: date | None, last: date | None) -> "Window":
        """What is in it of these days; None is no bound."""
        return Window(
            self.first if first is None else max(first, self.first),
            self.last if last is None else min(last, self.last),
        )


def served_days(latest: date, retention_days: int) -> Window:
    return Window(latest - timedelta(days=retention_days - 1), latest)


@dataclass(frozen=True, slots=True)
class Partition:
    """What a source reports about its data of a day without reading it."""

    rows: int
    modified_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSeen:
    """The source's partition of a day before the day was read."""

    partition_rows: int | None = None
    partition_modified_at: datetime | None = None

    @property
    def partition(self) -> Partition | None:
        """The partition; None if the source has none, or it was not readable."""
        if self.partition_rows is None or self.partition_modified_at is None:
            return None
        return Partition(self.partition_rows, self.partition_modified_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFigures(PartitionSeen):
    """Totals of a day's rows."""

    day: date
    source: str
    packages: int
    """Packages with a row."""

    downloads: int
    """Of all packages, mirrors excluded."""

    downloads_with_mirrors: int
    digest: str
    """Depends on the day's rows alone: equal rows give an equal digest in any database."""

    breakdowns: Sequence[str] = ()
    """The optional ones that its rows have, by their columns."""

    counted_files: CountedFiles = CountedFiles.ALL
    """The rule by which its rows were counted."""

    def __str__(self) -> str:
        return f"{self.packages:,} packages, {self.downloads:,} downloads"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDay(DayFigures):
    published_at: datetime
    checked_at: datetime
    """When the source was last read or checked for it, whether or not it had changed."""

    suspect_reason: str | None = None
    """How the day deviates from its neighbours as they are now; None if it does not."""

    def __str__(self) -> str:
        return (
            f"published {self.day} from {self.source}: "
            f"{self.packages:,} packages, {self.downloads:,} downloads"
        )


RECENT_STATUS_DAYS = 14
"""Days of which the status tells the figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDay(DayFigures):
    """A day that was read and is not published, since it does not look plausible."""

    reason: str
    held_since: datetime
    read_at: datetime
    """When it was last read, or checked and unchanged."""

    readings: int
    same_since: datetime
    """When these rows were first read."""

    wrong_rows: int
    """Rows that were left out, since their counts are wrong."""


class RunOutcome(StrEnum):
    """What became of a day that was asked of a source."""

    RUNNING = "running"
    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    """It was published before, and the source has not changed or has no more of it now."""

    HELD = "held"
    FAILED = "failed"
    STOPPED = "stopped"
    """By whoever stopped the process."""

    INTERRUPTED = "interrupted"
    """Its process, or its connection to the database, ended without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestRun(PartitionSeen):
    """One time that a day was asked of a source, or published after it was held."""

    id: int
    day: date
    source: str
    started_at: datetime
    ended_at: datetime | None
    outcome: RunOutcome
    rows: int | None
    """Packages that the source gave."""

    bytes_billed: int | None
    """None when the source never told."""

    query: str | None
    """By which the source gives the day's rows again, at no further cost."""

    error: str | None
    """Why the day was held, or what failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The published data of the days served, as of one publish."""

    days: tuple[date, ...]
    """Those of the days served that are published, in order."""

    breakdowns: Mapping[str, tuple[date, ...]] = field(default_factory=dict)
    """By the column of an optional breakdown, those of `days` that have it."""

    counted_files: Mapping[date, CountedFiles]
    """The rule by which each of `days` was counted."""

    window: Window
    """The days served."""

    published_at: datetime
    """Time of the latest publish. Each publish has its own."""

    version: str
    """Hash of the days' digests and of whether misspelt names can be found. Equal versions give
    equal answers.
    """

    held_days: int
    """Number of days that wait to become plausible."""

    suspect_days: int = 0
    """How many of the days deviate from their neighbours and are served all the same."""

    has_trigrams: bool = False
    """Whether misspelt names can be looked for."""

    def days_with(self, breakdown: Breakdown | None) -> tuple[date, ...]:
        """Those that have a breakdown; without one all, since each has the totals."""
        if breakdown is None or not breakdown.is_optional:
            return self.days
        return self.breakdowns.get(breakdown.column, ())

    @property
    def latest_day(self) -> date:
        return self.window.last

    @property
    def missing_days(self) -> int:
        """Number of days served that are not published."""
        return (self.window.last - self.window.first).days + 1 - len(self.days)

    @property
    def is_complete(self) -> bool:
        """True if no day is missing, held or suspect: the next change is the next day."""
        return not (self.missing_days or self.held_days or self.suspect_days)


def gaps(days: Sequence[PublishedDay]) -> list[date]:
    """The days between the first and the last of `days`, in order, that are not among them."""
    if not days:
        return []
    published = {day.day for day in days}
    first, last = min(published), max(published)
    span = (first + timedelta(days=passed) for passed in range((last - first).days))
    return [day for day in span if day not in published]
