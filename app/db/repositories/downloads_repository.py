"""Reads published downloads, with one query for each response."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from app.db.publication import current_publication
from app.db.published_reads import PublishedReads, published_statement
from app.db.statements import Source, Statement, fetch
from app.db.tables import daily_downloads, held_days, ingested_days, packages
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

_latest_day = select(func.max(ingested_days.c.day)).scalar_subquery()


_is_asked = packages.c.name == func.any(bindparam("packages", type_=ARRAY(Text)))
"""Condition with one array parameter, so that the statement fits any number of packages."""


class SeriesResult(NamedTuple):
    series: Series
    known: Sequence[date]
    """Published days of the range, in order, from the same state of the database. For an optional
    breakdown, only days that have it. Empty if the caller did not request them.
    """


class _Statements(NamedTuple):
    series: Statement
    series_and_known: Statement

    def asked(self, *, with_known: bool) -> Statement:
        return self.series_and_known if with_known else self.series


def _series_of_each(
    columns: Sequence[ColumnElement[Any]],
    join: Callable[[ColumnElement[Any]], ColumnElement[Any]],
    breakdown: Breakdown | None = None,
) -> _Statements:
    """Return statements with one row per package: its name, and the values of its days joined in
    order, or NULL if it has none of the requested days. Receiving one row per day would take
    several times as long.

    The days come in order from the partitions' primary keys, month by month, without a sort. For
    that, aggregates must not request an order, and the days must not be joined to another table.
    """
    conditions: list[ColumnElement[bool]] = []
    day = ingested_days.c.day
    is_known: ColumnElement[bool] = day.between(bindparam("first"), bindparam("last"))
    if breakdown and breakdown.is_optional:
        conditions = [daily_downloads.c[breakdown.column].is_not(None)]
        is_known &= literal(breakdown.column) == func.any(ingested_days.c.breakdowns)
    days = (
        select(daily_downloads.c.date, *columns)
        .where(
            daily_downloads.c.package_id == packages.c.id,
            daily_downloads.c.date.between(bindparam("first"), bindparam("last")),
            *conditions,
        )
        .order_by(daily_downloads.c.date)
        .correlate(packages)
        .subquery()
    )
    every_day, *of_a_day = days.c
    joined = (join(column).label(f"joined_{column.name}") for column in of_a_day)
    together = select(func.array_agg(every_day).label("days"), *joined).lateral()
    series = select(packages.c.name, together).where(
        _is_asked, packages.c.last_seen >= bindparam("first_served")
    )
    known = select(
        func.array_agg(aggregate_order_by(ingested_days.c.day, ingested_days.c.day))
    ).where(is_known)
    return _Statements(
        published_statement(series),
        published_statement(series.add_columns(known.scalar_subquery().label("known"))),
    )


def _comma_separated(texts: ColumnElement[str]) -> ColumnElement[str]:
    return func.string_agg(texts, literal_column("','"))


_OVERALL = _series_of_each(
    [daily_downloads.c.with_mirrors, daily_downloads.c.without_mirrors], func.array_agg
)


def _breakdown(breakdown: Breakdown) -> _Statements:
    counts = daily_downloads.c[breakdown.column]
    return _series_of_each([cast(counts, Text)], _comma_separated, breakdown)


_BREAKDOWNS = {breakdown.name: _breakdown(breakdown) for breakdown in BREAKDOWNS}


def _arguments(names: Sequence[str], served: Window, asked: Window) -> dict[str, object]:
    return {
        "packages": names,
        "first_served": served.first,
        "first": asked.first,
        "last": asked.last,
    }


@dataclass(frozen=True, slots=True)
class Size:
    packages: int
    """Number of packages in the days served."""

    size_bytes: int
    """Size on disk, with indexes."""


class DownloadsRepository(PublishedReads):
    """Reads the days served: the `retention_days` that end with the latest published one."""

    def __init__(self, source: Source, retention_days: int) -> None:
        super().__init__(source)
        self._retention_days = retention_days
        self._before_window = _latest_day - retention_days
        sums = packages.c.last_day, packages.c.last_week, packages.c.last_month
        is_served = packages.c.last_seen > self._before_window
        self._recent = published_statement(
            select(*sums).where(packages.c.name == bindparam("package"), is_served)
        )
        self._recent_of_many = published_statement(
            select(packages.c.name, *sums).where(_is_asked, is_served)
        )

    async def recent(self, package: str) -> RecentDownloads | None:
        """Return a package's downloads, or None if it has none in the days served."""
        rows = await self._read(self._recent, package=package)
        return RecentDownloads(*rows[0]) if rows else None

    async def recent_of_many(self, names: Sequence[str]) -> dict[str, RecentDownloads]:
        """Return downloads by package, without packages that have none in the days served."""
        rows = await self._read(self._recent_of_many, packages=names)
        return {name: RecentDownloads(*counts) for name, *counts in rows}

    async def overall(
        self, names: Sequence[str], served: Window, asked: Window, *, with_known: bool = False
    ) -> dict[str, SeriesResult]:
        """Return the categories `with_mirrors` and `without_mirrors` of the requested days by
        package. Packages without a download in the days served are left out.
        """
        query = _OVERALL.asked(with_known=with_known)
        rows = await self._read(query, **_arguments(names, served, asked))
        return {
            name: SeriesResult(_overall(days, *counts[:2]), counts[2] or () if with_known else ())
            for name, days, *counts in rows
        }

    async def breakdown(
        self,
        package: str,
        served: Window,
        asked: Window,
        breakdown: Breakdown,
        *,
        with_known: bool = False,
    ) -> SeriesResult | None:
        """Return the breakdown's categories, or None for a package that `overall` leaves out."""
        query = _BREAKDOWNS[breakdown.name].asked(with_known=with_known)
        rows = await self._read(query, **_arguments([package], served, asked))
        if not rows:
            return None
        _, days, stored, *known = rows[0]
        counts = orjson.loads(f"[{stored or ''}]")
        if breakdown.category_of:
            counts = (_merge(of_a_day, breakdown.category_of) for of_a_day in counts)
        return SeriesResult(_series(days or (), counts), known[0] or () if with_known else ())

    async def publication(self) -> Publication | None:
        """Return the current publication; None if nothing is published."""
        return await current_publication(self.source, self._retention_days)

    async def published_days(self) -> list[PublishedDay]:
        """Return the published days of the window, oldest first."""
        query = (
            select(ingested_days)
            .where(ingested_days.c.day > self._before_window)
            .order_by(ingested_days.c.day)
        )
        return [PublishedDay(**row) for row in await fetch(self.source, Statement(query))]

    async def held_days(self) -> list[HeldDay]:
        """Return the held days, oldest first."""
        query = select(held_days).order_by(held_days.c.day)
        return [HeldDay(**row) for row in await fetch(self.source, Statement(query))]

    async def size(self) -> Size:
        query = select(
            select(func.count())
            .select_from(packages)
            .where(packages.c.name != ALL_PACKAGES, packages.c.last_seen > self._before_window)
            .scalar_subquery(),
            func.pg_total_relation_size("packages")
            + func.pg_total_relation_size("ingested_days")
            + func.pg_total_relation_size("held_downloads")
            + select(func.sum(func.pg_total_relation_size(column("relid"))))
            .select_from(func.pg_partition_tree("daily_downloads").table_valued("relid"))
            .scalar_subquery(),
        )
        ((package_count, size_bytes),) = await fetch(self.source, Statement(query))
        return Size(packages=package_count, size_bytes=int(size_bytes))


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
    """Sum stored categories into the served ones."""
    merged: Counter[str] = Counter()
    for category, downloads in stored.items():
        merged[category_of(category)] += downloads
    return merged


def _series(days: Iterable[date], counts: Iterable[Counts]) -> Series:
    """Return the series of each category. Days without a download have no item."""
    series: defaultdict[str, list[tuple[date, int]]] = defaultdict(list)
    for day, of_that_day in zip(days, counts, strict=True):
        for category, downloads in of_that_day.items():
            if downloads:
                series[category].append((day, downloads))
    return series
