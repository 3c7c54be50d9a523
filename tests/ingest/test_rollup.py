"""Months are rolled up before their days are dropped, and lose nothing."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime

import orjson
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect
from app.db.repositories.months_repository import MonthsRepository
from app.db.tables import monthly_downloads, packages, top_packages
from app.domain.breakdowns import REQUIRED_COLUMNS
from app.domain.downloads import PackageDownloads
from app.domain.events import CountedFiles
from app.domain.months import StoredMonth, days_of_month, unpack
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import ALL_MONTHS
from app.ingest.publish import PublishContext
from app.ingest.retention import RetentionResult, expire
from app.ingest.rollup import roll_up_due
from app.ingest.verification import days_to_verify, verify
from app.settings import Settings
from tests.clock import NOW
from tests.days import (
    POLICY,
    downloads,
    store_days,
)

JUNE = date(2026, 6, 1)
LATER = datetime(2026, 12, 24, tzinfo=NOW.tzinfo)

Days = dict[date, list[PackageDownloads]]


async def roll_up_now(
    engine: AsyncEngine,
    *,
    retention_days: int = 180,
    keep_months: int | None = None,
    now: datetime = LATER,
) -> list[StoredMonth]:
    policy = replace(POLICY, retention_days=retention_days, keep_months=keep_months)
    context = PublishContext(engine, policy, lambda: now)
    return [month async for month in roll_up_due(context, Settings())]


async def expire_now(
    engine: AsyncEngine, retention_days: int = 30, keep_months: int | None = None
) -> RetentionResult:
    policy = replace(POLICY, retention_days=retention_days, keep_months=keep_months)
    return await expire(engine, policy, NOW)


def month_of_days(month: date) -> Days:
    return {day: [downloads("flask", 100 + day.day)] for day in days_of_month(month)}


Totals = Mapping[str, tuple[int, int]]


def sums(days: Days) -> Totals:
    """Return the downloads by package, with and without mirrors."""
    found: dict[str, tuple[int, int]] = {}
    for rows in days.values():
        for row in rows:
            for name in (row.package, ALL_PACKAGES):
                with_mirrors, without_mirrors = found.get(name, (0, 0))
                found[name] = (
                    with_mirrors + row.with_mirrors,
                    without_mirrors + row.without_mirrors,
                )
    return found


async def stored_months(engine: AsyncEngine) -> Mapping[date, StoredMonth]:
    async with connect(engine) as connection:
        return await MonthsRepository(connection).stored()


async def stored_totals(engine: AsyncEngine) -> Mapping[date, Totals]:
    found: dict[date, dict[str, tuple[int, int]]] = {}
    query = select(
        packages.c.name, *monthly_downloads.c["month", "with_mirrors", "without_mirrors"]
    ).join(packages, packages.c.id == monthly_downloads.c.package_id)
    async with connect(engine) as connection:
        for name, month, *totals in await connection.execute(query):
            found.setdefault(month, {})[name] = tuple(totals)
    return found


async def stored_counts(engine: AsyncEngine, package: str, column: str) -> Mapping[str, int]:
    """Return a package's counts of the only month."""
    (month,) = (await stored_months(engine)).values()
    query = text(
        f"SELECT CAST({column} AS text) FROM monthly_downloads JOIN packages ON id = package_id "
        "WHERE name = :package"
    )
    async with connect(engine) as connection:
        stored = await connection.scalar(query, {"package": package})
    return unpack(orjson.loads(stored), month.categories[column])


async def differences(engine: AsyncEngine) -> list[str]:
    days = await days_to_verify(engine, None)
    return [
        str(one) async for step in verify(engine, days, packages=True) for one in step.differences
    ]


async def test_a_month_of_final_days_is_rolled_up(engine: AsyncEngine) -> None:
    days = month_of_days(JUNE)
    days[JUNE].append(downloads("only-mirrors", 0, mirrors=3))
    days[JUNE].append(downloads("numpy", {"3.12": 7, "null": 1}, {"windows": 8}, mirrors=1))
    await store_days(engine, days)
    (month,) = await roll_up_now(engine)
    assert (month.month, month.days, month.missing_days) == (JUNE, 30, [])
    assert (month.packages, month.downloads, month.downloads_with_mirrors) == (3, 3473, 3477)
    assert (month.source, month.counted_files) == ("given", CountedFiles.ALL)
    assert month.breakdowns == list(REQUIRED_COLUMNS)
    assert month == replace(
        (await stored_months(engine))[JUNE],
        categories=month.categories,
        breakdowns=month.breakdowns,
    )
    assert (await stored_totals(engine))[JUNE] == sums(days)
    assert await stored_counts(engine, "numpy", "python_minor") == {"3.12": 7, "null": 1}
    assert await stored_counts(engine, ALL_PACKAGES, "system") == {"linux": 3465, "windows": 8}
    async with connect(engine) as connection:
        ranks = await connection.execute(
            select(packages.c.name, monthly_downloads.c.rank).join(
                packages, packages.c.id == monthly_downloads.c.package_id
            )
        )
        assert dict(list(ranks)) == {
            "flask": 1,
            "numpy": 2,
            "only-mirrors": None,
            ALL_PACKAGES: None,
        }
        top = await connection.execute(
            select(*top_packages.c["rank", "name", "downloads"])
            .where(top_packages.c.period == ALL_MONTHS)
            .order_by("rank")
        )
        assert [tuple(row) for row in top] == [(1, "flask", 3465), (2, "numpy", 8)]
    assert await roll_up_now(engine) == []
    assert await differences(engine) == []
