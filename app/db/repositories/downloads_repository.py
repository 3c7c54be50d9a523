"""Reads published downloads, with one query per response."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from typing import NamedTuple

import orjson
from sqlalchemy import func, select, text

from app.db.publication import current_publication
from app.db.sql import load_sql
from app.db.statements import PublishedReads, Queryable, Statement, fetch, published_statement
from app.db.tables import held_days, ingested_days
from app.domain.breakdowns import BREAKDOWNS, Breakdown
from app.domain.downloads import (
    Counts,
    HeldDay,
    Publication,
    PublishedDay,
    RecentDownloads,
    Series,
    Window,
)
from app.domain.package_name import ALL_PACKAGES

WITH_MIRRORS = "with_mirrors"
WITHOUT_MIRRORS = "without_mirrors"


class SeriesResult(NamedTuple):
    series: Series
    published_days: Sequence[date]
    """Published days of the range, in order, from the same state of the database. Days without the
    figures of an optional breakdown are omitted. Empty if the caller did not request the days.
    """


def _series_statements(
    columns: str, joined: str, breakdown: Breakdown | None = None
) -> tuple[Statement, Statement]:
    """Return a query of series, and one that also returns the published days."""
    optional = breakdown.column if breakdown and breakdown.is_optional else None
    condition = f" AND {optional} IS NOT NULL" if optional else ""
    has_breakdown = f" AND '{optional}' = ANY (breakdowns)" if optional else ""
    without, with_days = (
        published_statement(
            "series", columns=columns, joined=joined, condition=condition, published_days=days
        )
        for days in ("", load_sql("published_days_column", condition=has_breakdown))
    )
    return without, with_days


_OVERALL = _series_statements(
    "with_mirrors, without_mirrors", "array_agg(with_mirrors), array_agg(without_mirrors)"
)
_BREAKDOWNS = {
    one.name: _series_statements(one.column, f"string_agg(CAST({one.column} AS text), ',')", one)
    for one in BREAKDOWNS
}


class Size(NamedTuple):
    packages: int
    """Number of packages with downloads in the days served."""

    size_bytes: int
    """Size of all tables on disk, with indexes."""


class DownloadsRepository(PublishedReads):
    """Reads the days served: the `retention_days` days that end with the latest published one."""

    def __init__(self, source: Queryable, retention_days: int) -> None:
        super().__init__(source)
        self._retention_days = retention_days
        self._recent, self._recent_of_many = (
            published_statement(
                "recent", columns=columns, condition=condition, retention_days=retention_days
            )
            for columns, condition in (
                ("", "name = :package"),
                # One array parameter, so that the statement fits any number of packages.
                ("name, ", "name = ANY (:packages)"),
            )
        )

    async def recent(self, package: str) -> RecentDownloads | None:
        """Return a package's downloads, or None if it has none in the days served."""
        rows = await self._read(self._recent, package=package)
        return RecentDownloads(*rows[0]) if rows else None

    async def recent_of_many(self, names: Sequence[str]) -> dict[str, RecentDownloads]:
        """Return downloads by package. Packages without any in the days served are omitted."""
        rows = await self._read(self._recent_of_many, packages=names)
        return {name: RecentDownloads(*counts) for name, *counts in rows}

    async def overall(
        self, names: Sequence[str], served: Window, requested: Window, *, with_days: bool = False
    ) -> dict[str, SeriesResult]:
        """Return the series `with_mirrors` and `without_mirrors` of the requested days by package.
        Packages without a download in the days served are omitted.
        """
        rows = await self._read(_OVERALL[with_days], **_arguments(names, served, requested))
        return {
            name: SeriesResult(_overall(days, *counts[:2]), counts[2] or () if with_days else ())
            for name, days, *counts in rows
        }

    async def breakdown(
        self,
        package: str,
        served: Window,
        requested: Window,
        breakdown: Breakdown,
        *,
        with_days: bool = False,
    ) -> SeriesResult | None:
        """Return the breakdown's series, or None for a package without a download in the days
        served.
        """
        found = await self.breakdown_of_many(
            [package], served, requested, breakdown, with_days=with_days
        )
        return next((result for _, result in found), None)

    async def breakdown_of_many(
        self,
        names: Sequence[str],
        served: Window,
        requested: Window,
        breakdown: Breakdown,
        *,
        with_days: bool = False,
    ) -> Iterator[tuple[str, SeriesResult]]:
        """Return each package with its series. Packages without a download in the days served are
        omitted. A series is parsed when the iterator returns it, which takes some milliseconds.
        """
        query = _BREAKDOWNS[breakdown.name][with_days]
        rows = await self._read(query, **_arguments(names, served, requested))
        return (
            (name, SeriesResult(_parsed(breakdown, *joined), days[0] or () if with_days else ()))
            for name, *joined, days in ((*row[:3], row[3:]) for row in rows)
        )

    async def publication(self) -> Publication | None:
        """Return the current publication, or None if nothing is published."""
        return await current_publication(self.source, self._retention_days)

    async def published_days(self) -> list[PublishedDay]:
        """Return the published days of the window, oldest first."""
        latest_day = select(func.max(ingested_days.c.day)).scalar_subquery()
        query = select(ingested_days).where(ingested_days.c.day > latest_day - self._retention_days)
        rows = await fetch(self.source, Statement(query.order_by(ingested_days.c.day)))
        return [PublishedDay(**row) for row in rows]

    async def held_days(self) -> list[HeldDay]:
        """Return the held days, oldest first."""
        query = select(held_days).order_by(held_days.c.day)
        return [HeldDay(**row) for row in await fetch(self.source, Statement(query))]

    async def size(self) -> Size:
        query = load_sql("size", all_packages=ALL_PACKAGES, retention_days=self._retention_days)
        (row,) = await fetch(self.source, Statement(text(query)))
        return Size(*row)


def _parsed(breakdown: Breakdown, days: Sequence[date] | None, stored: str | None) -> Series:
    """Parse the counts of days, which are joined in one text."""
    counts = orjson.loads(f"[{stored or ''}]")
    if breakdown.category_of:
        counts = (_merge(day_counts, breakdown.category_of) for day_counts in counts)
    return _series(days or (), counts)


def _arguments(names: Sequence[str], served: Window, requested: Window) -> dict[str, object]:
    return {
        "packages": names,
        "first_served": served.first,
        "first": requested.first,
        "last": requested.last,
    }


def _overall(
    days: Sequence[date] | None,
    with_mirrors: Sequence[int] | None,
    without_mirrors: Sequence[int] | None,
) -> Series:
    series = {
        category: [item for item in zip(days or (), counts or (), strict=True) if item[1]]
        for category, counts in ((WITH_MIRRORS, with_mirrors), (WITHOUT_MIRRORS, without_mirrors))
    }
    return {category: items for category, items in series.items() if items}


def _merge(stored: Counts, category_of: Callable[[str], str]) -> Counts:
    """Sum the counts of stored categories by the served categories."""
    merged: Counter[str] = Counter()
    for category, downloads in stored.items():
        merged[category_of(category)] += downloads
    return merged


def _series(days: Iterable[date], counts: Iterable[Counts]) -> Series:
    """Return the series of each category. Days without a download have no item."""
    series: defaultdict[str, list[tuple[date, int]]] = defaultdict(list)
    for day, day_counts in zip(days, counts, strict=True):
        for category, downloads in day_counts.items():
            if downloads:
                series[category].append((day, downloads))
    return series
