"""Reads what is published: one query an answer."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from app.breakdowns import BREAKDOWNS, Breakdown
from app.db.engine import fetch
from app.db.tables import daily_downloads, held_days, ingested_days, packages
from app.downloads import Counts, HeldDay, PublishedDay, RecentDownloads, Series
from app.package_name import ALL_PACKAGES

WITH_MIRRORS = "with_mirrors"
WITHOUT_MIRRORS = "without_mirrors"

_latest_day = select(func.max(ingested_days.c.day)).scalar_subquery()


@dataclass(frozen=True, slots=True)
class Size:
    packages: int
    """In the days served."""

    size_bytes: int
    """On disk, indexes included."""


class DownloadsRepository:
    """The days served are the `retention_days` that end with the latest published one."""

    def __init__(self, engine: AsyncEngine, retention_days: int) -> None:
        self._engine = engine
        self._before_window = _latest_day - retention_days
        self._recent = select(
            packages.c.last_day, packages.c.last_week, packages.c.last_month
        ).where(packages.c.name == bindparam("package"), packages.c.last_seen > self._before_window)
        overall = self._days_of_a_package(
            daily_downloads.c.with_mirrors, daily_downloads.c.without_mirrors
        )
        self._overall = select(
            func.array_agg(overall.c.date),
            func.array_agg(overall.c.with_mirrors),
            func.array_agg(overall.c.without_mirrors),
        )
        self._breakdowns = {
            breakdown.name: self._breakdown(daily_downloads.c[breakdown.column])
            for breakdown in BREAKDOWNS
        }

    def _breakdown(self, counts: ColumnElement[Any]) -> Select[Any]:
        days = self._days_of_a_package(cast(counts, Text).label("counts"))
        return select(
            func.array_agg(days.c.date), func.string_agg(days.c.counts, literal_column("','"))
        )

    def _days_of_a_package(self, *columns: ColumnElement[Any]) -> Subquery:
        """The days in order, for one row to be made of what they have one after the other: taking
        in a row a day costs several times as much. All of it is NULL when there is no day.

        The partitions' keys give the order, month by month, as long as nothing is joined to them
        and no aggregate asks for it: then nothing is sorted.
        """
        package_id = select(packages.c.id).where(packages.c.name == bindparam("package"))
        return (
            select(daily_downloads.c.date, *columns)
            .where(
                daily_downloads.c.package_id == package_id.scalar_subquery(),
                daily_downloads.c.date > self._before_window,
            )
            .order_by(daily_downloads.c.date)
            .subquery()
        )

    async def recent(self, package: str) -> RecentDownloads | None:
        """None when the package had no download in the days served."""
        rows = await fetch(self._engine, self._recent, {"package": package})
        return RecentDownloads(*rows[0]) if rows else None

    async def overall(self, package: str) -> Series | None:
        """Categories `with_mirrors` and `without_mirrors`; None as for `recent`."""
        ((days, every, direct),) = await fetch(self._engine, self._overall, {"package": package})
        if days is None:
            return None
        counts = (
            {WITH_MIRRORS: one, WITHOUT_MIRRORS: other}
            for one, other in zip(every, direct, strict=True)
        )
        return _series(days, counts)

    async def breakdown(self, package: str, breakdown: Breakdown) -> Series | None:
        """The breakdown's categories; None as for `recent`."""
        query = self._breakdowns[breakdown.name]
        ((days, stored),) = await fetch(self._engine, query, {"package": package})
        if days is None:
            return None
        counts = orjson.loads(f"[{stored}]")
        if breakdown.category_of:
            counts = (_merge(of_a_day, breakdown.category_of) for of_a_day in counts)
        return _series(days, counts)

    async def has_published(self) -> bool:
        ((latest,),) = await fetch(self._engine, select(_latest_day))
        return latest is not None

    async def published_days(self) -> list[PublishedDay]:
        """The days of the window that are published, oldest first."""
        query = (
            select(ingested_days)
            .where(ingested_days.c.day > self._before_window)
            .order_by(ingested_days.c.day)
        )
        return [PublishedDay(**row._asdict()) for row in await fetch(self._engine, query)]

    async def held_days(self) -> list[HeldDay]:
        """The days that are held, oldest first."""
        query = select(held_days).order_by(held_days.c.day)
        return [HeldDay(**row._asdict()) for row in await fetch(self._engine, query)]

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
        ((package_count, size_bytes),) = await fetch(self._engine, query)
        return Size(packages=package_count, size_bytes=int(size_bytes))


def _merge(stored: Counts, category_of: Callable[[str], str]) -> Counts:
    """Stored categories summed into the served ones."""
    merged: Counter[str] = Counter()
    for category, downloads in stored.items():
        merged[category_of(category)] += downloads
    return merged


def _series(days: Iterable[date], counts: Iterable[Counts]) -> Series:
    """A day on which a category had no download has no item."""
    series: defaultdict[str, list[tuple[date, int]]] = defaultdict(list)
    for day, of_that_day in zip(days, counts, strict=True):
        for category, downloads in of_that_day.items():
            if downloads:
                series[category].append((day, downloads))
    return series
