"""Values that the layers exchange: downloads of packages, and days that were read or published."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from app.domain.breakdowns import Breakdown
from app.domain.events import CountedFiles
from app.domain.history import History
from app.domain.months import (
    Month,
    Period,
    StoredMonth,
    first_day,
    first_month_since,
    last_day,
    month_of,
)

Counts = Mapping[str, int]
"""Downloads by category."""


class PackageDownloads(NamedTuple):
    """One package's downloads of one day, counted by the rules in `bigquery.sql`."""

    package: str
    """Normalised name."""

    with_mirrors: int
    without_mirrors: int

    breakdowns: Mapping[str, Counts]
    """Counts that add up to `without_mirrors`, by column. No count is zero."""


@dataclass(frozen=True, slots=True)
class UnparsedDownloads:
    """Several packages' downloads of one day, as columns.

    The counts of breakdowns are unparsed JSON. Many packages have few downloads and so equal texts,
    which are parsed only once.
    """

    packages: Sequence[str]
    with_mirrors: Sequence[int]
    without_mirrors: Sequence[int]

    breakdowns: Sequence[Sequence[str]]
    """One sequence per breakdown. It contains each package's downloads by category, as the text
    between the braces of a JSON object.
    """

    def __len__(self) -> int:
        return len(self.packages)


Batch = Sequence[PackageDownloads] | UnparsedDownloads
"""Some rows of a day."""


@dataclass(frozen=True, slots=True)
class RecentDownloads:
    """Downloads in the 1, 7 and 30 days up to the latest published day, mirrors excluded."""

    last_day: int
    last_week: int
    last_month: int


Series = Mapping[str, list[tuple[date, int]]]
"""Days with downloads and their counts, in order, by category."""


class Window(NamedTuple):
    """A range of days, both ends included. It is empty if it ends before it begins."""

    first: date
    last: date

    def within(self, first: date | None, last: date | None) -> "Window":
        """Return the part of this window between two days. None means no bound."""
        return Window(
            self.first if first is None else max(first, self.first),
            self.last if last is None else min(last, self.last),
        )


class ServedRanges(NamedTuple):
    """The ranges of days that series cover."""

    days: Window
    """Range of items for days and weeks."""

    months: Window
    """Range of items for months: whole calendar months."""


def served_days(latest: date, retention_days: int) -> Window:
    return Window(latest - timedelta(days=retention_days - 1), latest)


def stored_days(served: Window) -> Window:
    """Return the days that are certainly stored: retention drops whole months before the window."""
    return Window(served.first.replace(day=1), served.last)


class Partition(NamedTuple):
    """Metadata of a day's data, which the source reports without reading the data."""

    rows: int
    modified_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFields:
    """Base of records with the source's partition of a day, as it was before the day was read."""

    partition_rows: int | None = None
    partition_modified_at: datetime | None = None

    @property
    def partition(self) -> Partition | None:
        """The partition, or None if the source has none or it could not be read."""
        if self.partition_rows is None or self.partition_modified_at is None:
            return None
        return Partition(self.partition_rows, self.partition_modified_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFigures(PartitionFields):
    """The recorded figures of a day's rows."""

    day: date
    source: str
    packages: int
    downloads: int
    """Downloads of all packages, mirrors excluded."""

    downloads_with_mirrors: int
    digest: str
    """Hash of the day's rows. Equal rows have equal digests in all databases."""

    breakdowns: Sequence[str] = ()
    """Columns of the optional breakdowns that the rows have."""

    counted_files: CountedFiles = CountedFiles.ALL
    followed: str | None = None
    """Names of the only packages that were read, as `followed_text` returns them, or None if all
    packages were read.
    """

    @property
    def period(self) -> date:
        return self.day

    def __str__(self) -> str:
        return f"{self.packages:,} packages, {self.downloads:,} downloads"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDay(DayFigures):
    published_at: datetime
    checked_at: datetime
    """When the source was last read or checked for this day, even if it had not changed."""

    announced_at: datetime | None = None
    """Time of the publish that made these figures visible, which no other publish has. Recorded by
    `announce`.
    """

    suspect_reason: str | None = None
    """How the day deviates from its current neighbours, or None if it does not."""

    def __str__(self) -> str:
        return f"published {self.day} from {self.source}: {DayFigures.__str__(self)}"


RECENT_STATUS_DAYS = 14
"""Number of days whose figures the status lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDay(DayFigures):
    """A day that was read but is not published, because its figures are not plausible."""

    reason: str
    held_since: datetime
    read_at: datetime
    """When the day was last read, or was checked and had not changed."""

    readings: int
    """Number of times that the day was read, or was checked and had not changed."""

    same_since: datetime
    """When these rows were first read."""

    wrong_rows: int
    """Number of rows that were rejected because of wrong counts."""


class RunOutcome(StrEnum):
    RUNNING = "running"
    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    """The published day stays: the source's data has not changed, or is no reason to replace it."""

    HELD = "held"
    FAILED = "failed"
    STOPPED = "stopped"
    """The run was cancelled, because the process was stopped."""

    INTERRUPTED = "interrupted"
    """The process was killed, or its connection to the database was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestRun(PartitionFields):
    """The record of a run, which read a day or a month from a source, or published a held day."""

    id: int
    day: date
    """First day that was read."""

    is_month: bool = False
    """True if the run read the whole month that begins with `day`."""

    source: str
    started_at: datetime
    ended_at: datetime | None
    outcome: RunOutcome
    rows: int | None
    """Number of packages that the source returned."""

    bytes_billed: int | None
    query: str | None
    """Id of the source's query, whose result can be read again at no cost."""

    error: str | None
    """Why the day was held, or what failed."""

    @property
    def period(self) -> Period:
        return Month(self.day) if self.is_month else self.day


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A state of the published data, which each publish replaces by a new one."""

    days: tuple[date, ...]
    """The published days among the days served, in order."""

    breakdowns: frozenset[str] = frozenset()
    """Columns of the optional breakdowns that some of the days have."""

    counted_files: Mapping[date, CountedFiles]
    """Rule by which each of `days` was counted."""

    window: Window
    """The days served."""

    months: tuple[StoredMonth, ...] = ()
    """All stored months, in order. Some of their days may still be served."""

    earlier_days: tuple[date, ...] = ()
    """Published days before the window that are still stored, of months that are not stored."""

    published_at: datetime
    """Time of the latest publish. No two publishes have the same time."""

    version: str
    """Hash of the published data. Responses also depend on the known events and on the code that
    renders them, which `Tagger` adds.
    """

    held_days: int
    suspect_days: int = 0
    has_trigrams: bool = False
    """True if search can find misspelt names."""

    is_sample: bool = False
    """True if the figures are sample data. They are never mixed with real figures."""

    followed: tuple[str, ...] | None = None
    """Names of the only packages that the instance follows, sorted, or None if it follows all."""

    def has(self, breakdown: Breakdown) -> bool:
        """Return True if at least one day has the breakdown."""
        return not breakdown.is_optional or breakdown.column in self.breakdowns

    @cached_property
    def history(self) -> History:
        return History(self.earlier_days + self.days, self.months)

    def history_of(self, packages: Iterable[str]) -> History:
        """Return the days of which the downloads of all these packages are known."""
        names = {*packages} & {*(self.followed or ())}
        months = tuple(one for one in self.months if one.has(names))
        return self.history if months == self.months else History(self.history.days, months)

    @cached_property
    def served(self) -> ServedRanges:
        """The ranges that series cover. That of months ends with the last whole month."""
        first_months = [
            first_month_since(self.window.first),
            *map(month_of, self.earlier_days[:1]),
            *self.history.used_months,
        ]
        last = month_of(self.window.last + timedelta(days=1)) - timedelta(days=1)
        return ServedRanges(days=self.window, months=Window(min(first_months), last))

    @property
    def latest_day(self) -> date:
        return self.window.last

    @property
    def missing_days(self) -> int:
        """Number of days served that are not published."""
        return (self.window.last - self.window.first).days + 1 - len(self.days)

    @property
    def is_complete(self) -> bool:
        """True if no day is missing, held or suspect, so that the next change is a new day."""
        return not (self.missing_days or self.held_days or self.suspect_days)


def gaps(days: Sequence[PublishedDay]) -> list[date]:
    """Return the days between the first and the last of `days` that are missing, in order."""
    if not days:
        return []
    published = {day.day for day in days}
    first, last = min(published), max(published)
    span = (first + timedelta(days=passed) for passed in range((last - first).days))
    return [day for day in span if day not in published]


def date_ranges(periods: Iterable[Period]) -> str:
    """Return days or months as text, in order. Consecutive ones are shown as a range."""
    ranges: list[list[Period]] = []
    for period in sorted(periods, key=first_day):
        if ranges and first_day(period) - last_day(ranges[-1][-1]) == timedelta(days=1):
            ranges[-1].append(period)
        else:
            ranges.append([period])
    return ", ".join(str(one[0]) if len(one) == 1 else f"{one[0]} to {one[-1]}" for one in ranges)
