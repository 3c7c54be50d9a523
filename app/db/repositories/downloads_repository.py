"""Reads published downloads, with one query per response."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

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
from app.domain.history import History, MonthDownloads
from app.domain.months import StoredMonth, unpack
from app.domain.package_name import ALL_PACKAGES

WITH_MIRRORS = "with_mirrors"
WITHOUT_MIRRORS = "without_mirrors"


class SeriesRange(NamedTuple):
    """The days and months that a series is read from."""

    days: Window
    first_served: date
    """Packages without a row since this day are unknown, unless `months` is not None and they are
    in a stored month.
    """

    months: Sequence[StoredMonth] | None = None
    """Complete months that are read from `monthly_downloads` in place of their days, or None if no
    stored months are read.
    """

    def read_months(self, breakdown: Breakdown | None = None) -> list[date]:
        """Return the first days of the months that have the breakdown."""
        return [
            one.month
            for one in self.months or ()
            if breakdown is None or breakdown.column in one.breakdowns
        ]


class SeriesResult(NamedTuple):
    series: Series
    published_days: Sequence[date]
    """Published days of the range, in order, from the same state of the database. Days without the
    figures of an optional breakdown are omitted. Empty if the caller did not request the days.
    """

    months: Sequence[date] = ()
    """Months of which the series contains the sum, dated by the first day."""


class _SeriesStatements(NamedTuple):
    days: Statement
    with_published_days: Statement
    with_months: Statement
    """Query that also returns published days, and reads stored months."""

    def query(self, range_: SeriesRange, *, with_days: bool) -> Statement:
        if range_.months is not None:
            return self.with_months
        return self.with_published_days if with_days else self.days


def _series_statements(
    columns: str, joined: str, breakdown: Breakdown | None = None
) -> _SeriesStatements:
    """Return the queries of a series."""
    optional = breakdown.column if breakdown and breakdown.is_optional else None
    is_read = f" AND {optional} IS NOT NULL" if optional else ""
    has_breakdown = f" AND '{optional}' = ANY (breakdowns)" if optional else ""
    published_days = load_sql("published_days_column", condition=has_breakdown)

    def statement(name: str, condition: str, published_days: str) -> Statement:
        return published_statement(
            name, columns=columns, joined=joined, condition=condition, published_days=published_days
        )

    return _SeriesStatements(
        statement("series", is_read, ""),
        statement("series", is_read, published_days),
        statement("series_by_month", is_read, published_days),
    )


_OVERALL = _series_statements(
    "with_mirrors, without_mirrors", "array_agg(with_mirrors), array_agg(without_mirrors)"
)
_BREAKDOWNS = {
    one.name: _series_statements(one.column, f"string_agg(CAST({one.column} AS text), ',')", one)
    for one in BREAKDOWNS
}
_HISTORY = published_statement("history", order="month")


_CHANGES = published_statement("changes", order="first_day DESC")


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
        self, names: Sequence[str], range_: SeriesRange, *, with_days: bool = False
    ) -> dict[str, SeriesResult]:
        """Return the series `with_mirrors` and `without_mirrors` by package. Unknown packages are
        omitted.
        """
        query, months = _OVERALL.query(range_, with_days=with_days), range_.read_months()
        rows = await self._read(query, **_arguments(names, range_, months))
        return {
            name: SeriesResult(
                _overall(days, *counts[:2]), counts[2] or () if with_days else (), months
            )
            for name, days, *counts in rows
        }

    async def breakdown(
        self,
        package: str,
        range_: SeriesRange,
        breakdown: Breakdown,
        *,
        with_days: bool = False,
    ) -> SeriesResult | None:
        """Return the breakdown's series, or None for an unknown package."""
        found = await self.breakdown_of_many([package], range_, breakdown, with_days=with_days)
        return next((result for _, result in found), None)

    async def breakdown_of_many(
        self,
        names: Sequence[str],
        range_: SeriesRange,
        breakdown: Breakdown,
        *,
        with_days: bool = False,
    ) -> Iterator[tuple[str, SeriesResult]]:
        """Return each package with its series. Unknown packages are omitted. A series is parsed
        when the iterator returns it, which takes some milliseconds.
        """
        query = _BREAKDOWNS[breakdown.name].query(range_, with_days=with_days)
        months = range_.read_months(breakdown)
        rows = await self._read(query, **_arguments(names, range_, months))
        categories = {one.month: one.categories for one in range_.months or ()}
        return (
            (
                name,
                SeriesResult(
                    _parsed(breakdown, categories, *joined),
                    days[0] or () if with_days else (),
                    months,
                ),
            )
            for name, *joined, days in ((*row[:3], row[3:]) for row in rows)
        )

    async def history(self, package: str, history: History) -> list[MonthDownloads]:
        """Return a package's downloads in each month, in order. The list is empty for a package
        without a row in any known day.
        """
        rows = await self._read(_HISTORY, **history_arguments(package, history))
        return [MonthDownloads(*row) for row in rows]

    async def changes(self, served: Window, since: datetime) -> Sequence[tuple[Any, ...]]:
        """Return the days served and the stored months that were published or replaced after a
        publish, latest first: `day` or `month`, its first day, digest and time.
        """
        return await self._read(_CHANGES, first=served.first, last=served.last, since=since)

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


def _parsed(
    breakdown: Breakdown,
    categories: Mapping[date, Mapping[str, Sequence[str]]],
    dates: Sequence[date] | None,
    stored: str | None,
) -> Series:
    """Parse the counts of days and months, which are joined in one text. `categories` are those of
    the months.
    """
    dates, counts = dates or (), orjson.loads(f"[{stored or ''}]")
    if categories:
        counts = (
            unpack(one, categories.get(day, {}).get(breakdown.column, ()))
            for day, one in zip(dates, counts, strict=True)
        )
    if breakdown.category_of:
        counts = (_merge(day_counts, breakdown.category_of) for day_counts in counts)
    return _series(dates, counts)


def _arguments(
    names: Sequence[str], range_: SeriesRange, months: Sequence[date]
) -> dict[str, object]:
    return {
        "packages": names,
        "first_served": range_.first_served,
        "first": range_.days.first,
        "last": range_.days.last,
        "months": months,
    }


def history_arguments(package: str, history: History) -> dict[str, object]:
    """Return the arguments of `history.sql`."""
    return {
        "package": package,
        "months": [*history.used_months],
        "first_known": history.days[0],
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
