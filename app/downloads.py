"""What the parts hand each other: downloads of a package, and days that were published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple

Counts = Mapping[str, int]
"""Downloads by category."""


class PackageDownloads(NamedTuple):
    """One package's downloads of one day, counted by the rules in `app/ingest/bigquery.sql`."""

    package: str
    """Normalised name."""

    with_mirrors: int
    without_mirrors: int

    breakdowns: Mapping[str, Counts]
    """For each of `BREAKDOWN_COLUMNS`, `without_mirrors` divided into categories. None is zero."""


@dataclass(frozen=True, slots=True)
class RecentDownloads:
    """Downloads in the days that end with the latest published one: 1, 7 and 30. No mirrors."""

    last_day: int
    last_week: int
    last_month: int


Series = Mapping[str, list[tuple[date, int]]]
"""By category, its days with downloads in order, and how many."""


@dataclass(frozen=True, slots=True)
class PublishedDay:
    day: date
    source: str
    packages: int
    """Packages with a row."""

    downloads: int
    """Of all packages, mirrors excluded."""

    published_at: datetime
    digest: str
    """Depends on the day's rows alone: equal rows give an equal digest in any database."""

    def __str__(self) -> str:
        return (
            f"published {self.day} from {self.source}: "
            f"{self.packages:,} packages, {self.downloads:,} downloads"
        )


@dataclass(frozen=True, slots=True)
class Publication:
    """What is published at a moment, of the days served. While it stays, every answer does."""

    latest_day: date
    published_at: datetime
    """When the last of the days was published."""

    version: str
    """Depends on the days' rows alone, as their digests do."""


def gaps(days: Sequence[PublishedDay]) -> list[date]:
    """The days between the first and the last of `days`, in order, that are not among them."""
    if not days:
        return []
    published = {day.day for day in days}
    first, last = min(published), max(published)
    span = (first + timedelta(days=passed) for passed in range((last - first).days))
    return [day for day in span if day not in published]
