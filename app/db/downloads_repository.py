"""Reads what is published: one query an answer."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Select, bindparam, column, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.breakdowns import BREAKDOWNS, Breakdown
from app.db.engine import fetch
from app.db.tables import daily_downloads, ingested_days, packages
from app.downloads import Counts, PublishedDay, RecentDownloads, Series
from app.package_name import ALL_PACKAGES

WITH_MIRRORS = "with_mirrors"
WITHOUT_MIRRORS = "without_mirrors"

_latest_day = select(func.max(ingested_days.c.day)).scalar_subquery()


@dataclass(frozen=True, slots=True)
class Held:
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
        self._overall = self._days_of_a_package().add_columns(
            daily_downloads.c.with_mirrors, daily_downloads.c.without_mirrors
        )
        self._breakdowns = {
            breakdown.name: self._days_of_a_package().add_columns(
                daily_downloads.c[breakdown.column]
            )
            for breakdown in BREAKDOWNS
        }

    def _days_of_a_package(self) -> Select[date]:
        return (
            select(daily_downloads.c.date)
            .join(packages, packages.c.id == daily_downloads.c.package_id)
            .where(
                packages.c.name == bindparam("package"),
                daily_downloads.c.date > self._before_window,
            )
            .order_by(daily_downloads.c.date)
        )

    async def recent(self, package: str) -> RecentDownloads | None:
        """None when the package had no download in the days served."""
        rows = await fetch(self._engine, self._recent, {"package": package})
        return RecentDownloads(*rows[0]) if rows else None

    async def overall(self, package: str) -> Series | None:
        """Categories `with_mirrors` and `without_mirrors`; None as for `recent`."""
        rows = await fetch(self._engine, self._overall, {"package": package})
        counts = (
            (day, {WITH_MIRRORS: every, WITHOUT_MIRRORS: direct}) for day, every, direct in rows
        )
        return _series(counts) if rows else None

    async def breakdown(self, package: str, breakdown: Breakdown) -> Series | None:
        """The breakdown's categories; None as for `recent`."""
        rows = await fetch(self._engine, self._breakdowns[breakdown.name], {"package": package})
        category_of = breakdown.category_of
        counts = (
            (day, _merge(stored, category_of) if category_of else stored) for day, stored in rows
        )
        return _series(counts) if rows else None

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
        return [PublishedDay(*row) for row in await fetch(self._engine, query)]

    async def held(self) -> Held:
        query = select(
            select(func.count())
            .select_from(packages)
            .where(packages.c.name != ALL_PACKAGES, packages.c.last_seen > self._before_window)
            .scalar_subquery(),
            func.pg_total_relation_size("packages")
            + func.pg_total_relation_size("ingested_days")
            + select(func.sum(func.pg_total_relation_size(column("relid"))))
            .select_from(func.pg_partition_tree("daily_downloads").table_valued("relid"))
            .scalar_subquery(),
        )
        ((package_count, size_bytes),) = await fetch(self._engine, query)
        return Held(packages=package_count, size_bytes=int(size_bytes))


def _merge(stored: Counts, category_of: Callable[[str], str]) -> Counts:
    """Stored categories summed into the served ones."""
    merged: Counter[str] = Counter()
    for category, downloads in stored.items():
        merged[category_of(category)] += downloads
    return merged


def _series(days: Iterable[tuple[date, Counts]]) -> Series:
    """A day on which a category had no download has no item."""
    series: defaultdict[str, list[tuple[date, int]]] = defaultdict(list)
    for day, counts in days:
        for category, downloads in counts.items():
            if downloads:
                series[category].append((day, downloads))
    return series
