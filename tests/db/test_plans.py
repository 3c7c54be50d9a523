"""The plans of queries, at 100,000 packages: an index finds what is asked for."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from hashlib import md5
from typing import Any

import asyncpg
import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.api.bulk import MAX_PACKAGES
from app.db import package_figures
from app.db.engine import connect, create_engine, driver_of
from app.db.repositories.downloads_repository import DownloadsRepository, SeriesRange
from app.db.repositories.rankings_repository import RankingsRepository
from app.db.tables import stored_months, top_packages
from app.domain.breakdowns import SYSTEM
from app.domain.downloads import served_days
from app.domain.events import CountedFiles
from app.domain.history import History
from app.domain.months import StoredMonth, days_of_month, month_of
from app.domain.rankings import ALL_MONTHS, START
from tests.clock import NOW
from tests.days import RETENTION_DAYS, days_ago, downloads, publish

MANY = 100_000

WINDOW = served_days(days_ago(0), RETENTION_DAYS)
MONTH = month_of(WINDOW.first - timedelta(days=31))
STORED_MONTH = StoredMonth(
    month=MONTH,
    days=len(days_of_month(MONTH)),
    source="given",
    counted_files=CountedFiles.ALL,
    breakdowns=("python_minor",),
    categories={"python_minor": ["3.12"]},
    packages=MANY,
    downloads=10**9,
    downloads_with_mirrors=10**9,
    digest="",
    rolled_up_at=NOW,
)
HISTORY = History([days_ago(1), days_ago(0)], [STORED_MONTH])


@pytest.fixture(scope="module")
async def many(module_database_url: str) -> AsyncIterator[AsyncEngine]:
    """So many packages, with two days of downloads, summed and ranked as a publish does."""
    engine = create_engine(module_database_url, statement_timeout_seconds=60)
    async with engine.begin() as connection:
        # What a publish of so many rows takes is no matter here.
        await connection.execute(
            text(
                "INSERT INTO packages (name, last_seen) SELECT md5(CAST(n AS text)), :day "
                "FROM generate_series(1, CAST(:many AS integer)) AS n"
            ),
            {"day": days_ago(1), "many": MANY},
        )
    for ago in (1, 0):
        await publish(engine, days_ago(ago), downloads("requests", 10**6))
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO daily_downloads "
                "(package_id, date, with_mirrors, without_mirrors, python_minor, system) "
                "SELECT id, :day, id, id, CAST(:counts AS json), CAST(:counts AS json) "
                "FROM packages WHERE name NOT IN ('requests', '__all__')"
            ),
            {"day": days_ago(1), "counts": '{"3.12": 1}'},
        )
        await connection.execute(
            text(
                "INSERT INTO monthly_downloads (package_id, month, with_mirrors, without_mirrors, "
                "rank, python_minor) SELECT id, :month, id, id, id, CAST(:counts AS json) "
                "FROM packages"
            ),
            {"month": MONTH, "counts": '{"3.12": 1}'},
        )
        await connection.execute(insert(stored_months).values(asdict(STORED_MONTH)))
    # Once more, which sums all anew.
    await publish(engine, days_ago(0), downloads("requests", 10**6))
    async with connect(engine) as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(
            insert(top_packages).values(period=ALL_MONTHS, rank=1, name="requests", downloads=1)
        )
        # Also of the rows that were replaced, though they are few.
        await connection.execute(text("VACUUM (ANALYZE, INDEX_CLEANUP ON)"))
    yield engine
    await engine.dispose()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The statements that the driver sends, each with its arguments."""
    sent: list[tuple[Any, ...]] = []
    fetch = asyncpg.Connection.fetch

    async def note_and_fetch(driver: asyncpg.Connection, *asked: Any) -> Any:
        sent.append(asked)
        return await fetch(driver, *asked)

    monkeypatch.setattr(asyncpg.Connection, "fetch", note_and_fetch)
    return sent


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(
    ("method", "arguments", "indexes"),
    [
        ("top", ("week", 100), {"pk_top_packages", "uq_packages_name"}),
        ("top", (ALL_MONTHS, 100), {"pk_top_packages"}),
        ("top_of_month", (MONTH, 100), {"ix_monthly_downloads_top", "pk_packages"}),
        ("trending", (100,), set()),
        ("search", ("a", 20, START), {"uq_packages_name", "ix_packages_popular"}),
        ("search", ("abc", 100, START), {"uq_packages_name", "ix_packages_popular"}),
        ("search", ("reqeusts", 20, START), {"uq_packages_name", "ix_packages_popular_trigrams"}),
        ("summary", ("requests", HISTORY), {"uq_packages_name", "pk_monthly_downloads"}),
    ],
)
async def test_indexes_find_it(
    many: AsyncEngine,
    sent: list[tuple[Any, ...]],
    method: str,
    arguments: tuple[Any, ...],
    indexes: set[str],
    plan: str,
) -> None:
    read = RankingsRepository(many, RETENTION_DAYS)
    options = {"by_trigrams": True} if method == "search" else {}
    found = await getattr(read, method)(*arguments, **options)
    assert found or method == "trending"
    ((statement, *parameters),) = sent
    lines = await _explain(many, plan, statement, parameters)
    assert _indexes(lines) >= indexes, lines
    for table in re.findall(r"Seq Scan on (\S+)", lines):
        assert table in {"ingested_days", "publication", "stored_months", "trending_packages"}, (
            lines
        )
    # However many begin so.
    visited = [int(float(count)) for count in re.findall(r"Rows Removed by Filter: (\d+)", lines)]
    assert sum(visited) <= 25_000, lines


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(
    "method", ["recent_of_many", "overall", "overall by month", "breakdown_of_many"]
)
async def test_indexes_find_many_packages(
    many: AsyncEngine, sent: list[tuple[Any, ...]], method: str, plan: str
) -> None:
    names = [md5(str(number).encode()).hexdigest() for number in range(1, MAX_PACKAGES + 1)]
    read = DownloadsRepository(many, RETENTION_DAYS)
    by_month = HISTORY.complete_months(MONTH, WINDOW.last) if "by month" in method else None
    range_ = SeriesRange(WINDOW, WINDOW.first, by_month)
    arguments_of = {
        "recent_of_many": (),
        "overall": (range_,),
        "breakdown_of_many": (range_, SYSTEM),
    }
    name, *_ = method.split()
    found = await getattr(read, name)(names, *arguments_of[name])
    assert dict(found).keys() == set(names)
    ((statement, *arguments),) = sent
    lines = await _explain(many, plan, statement, arguments)
    assert "uq_packages_name" in _indexes(lines), lines
    assert set(re.findall(r"Seq Scan on (\S+)", lines)) <= {"ingested_days", "publication"}, lines
    if method != "overall by month":
        # The months' keys give the days in order, and have the totals.
        assert "Sort" not in lines, lines
    if name == "overall":
        assert "Index Only Scan using daily_downloads_" in lines, lines
        assert set(re.findall(r"Heap Fetches: (\d+)", lines)) == {"0"}, lines
        assert "Heap Scan on daily_downloads" not in lines, lines


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
async def test_a_history_is_read_from_indexes(
    many: AsyncEngine, sent: list[tuple[Any, ...]], plan: str
) -> None:
    months = await DownloadsRepository(many, RETENTION_DAYS).history("requests", HISTORY)
    assert [one.month for one in months] == [MONTH, month_of(days_ago(0))]
    ((statement, *arguments),) = sent
    lines = await _explain(many, plan, statement, arguments)
    assert _indexes(lines) >= {"uq_packages_name", "pk_monthly_downloads"}, lines
    assert set(re.findall(r"Seq Scan on (\S+)", lines)) <= {"publication"}, lines
    assert "Index Only Scan using daily_downloads_" in lines, lines
    assert "Heap Scan" not in lines, lines


async def _explain(
    engine: AsyncEngine, plan: str, statement: str, arguments: Sequence[object]
) -> str:
    """A prepared statement's plan: one that is only explained is planned for its arguments."""
    literals = ", ".join(_literal(argument) for argument in arguments)
    async with connect(engine) as connection:
        driver = driver_of(connection)
        await driver.execute(f"SET plan_cache_mode = {plan}")
        await driver.execute(f"PREPARE asked AS {statement}")
        rows = await driver.fetch(
            f"EXPLAIN (ANALYZE) EXECUTE asked{f' ({literals})' if literals else ''}"
        )
        await driver.execute("DEALLOCATE asked")
        await driver.execute("RESET plan_cache_mode")
    return "\n".join(row[0] for row in rows)


def _literal(argument: object) -> str:
    """Of a value without quotes in it."""
    items = f"{{{','.join(map(str, argument))}}}" if isinstance(argument, list) else argument
    return f"'{items}'"


def _indexes(plan: str) -> set[str]:
    used = re.findall(r"Index (?:Only )?Scan using (\S+)|Bitmap Index Scan on (\S+)", plan)
    return {name for names in used for name in names if name}


@pytest.mark.parametrize("statement", ["_SUM", "_MOVE"])
async def test_the_figures_of_packages_are_not_looked_for_one_by_one(
    many: AsyncEngine, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    explained = f"EXPLAIN (SETTINGS) {getattr(package_figures, statement)}"
    monkeypatch.setattr(package_figures, statement, explained)
    lines: list[str] = []
    execute = AsyncConnection.execute

    async def execute_and_note(*arguments: Any, **options: Any) -> Any:
        result = await execute(*arguments, **options)
        if result.returns_rows:
            lines.extend(row[0] for row in result)
        return result

    async with connect(many) as connection:
        monkeypatch.setattr(AsyncConnection, "execute", execute_and_note)
        is_next = statement == "_MOVE"
        await package_figures.update_figures(connection, days_ago(0), is_next=is_next)
        monkeypatch.undo()
        for joins in ("nestloop", "hashjoin"):
            assert await connection.scalar(text(f"SHOW enable_{joins}")) == "on"
    plan = "\n".join(lines)
    assert "Update on packages" in plan
    assert "enable_nestloop = 'off'" in plan
    assert not re.search("Nested Loop|Hash .*Join|Hash Join", plan), plan
