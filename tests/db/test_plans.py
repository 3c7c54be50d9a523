"""The plans of queries, at 100,000 packages: an index finds what is asked for."""

import re
from collections.abc import AsyncIterator, Sequence
from hashlib import md5
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.api.bulk import MAX_PACKAGES
from app.db import package_figures
from app.db.engine import connect, create_engine, driver_of
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.rankings_repository import RankingsRepository
from app.domain.breakdowns import SYSTEM
from app.domain.downloads import served_days
from app.domain.rankings import START
from tests.days import RETENTION_DAYS, days_ago, downloads, publish

MANY = 100_000


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
    # Once more, which sums all anew.
    await publish(engine, days_ago(0), downloads("requests", 10**6))
    async with connect(engine) as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
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
        ("trending", (100,), set()),
        ("search", ("a", 20, START), {"uq_packages_name", "ix_packages_popular"}),
        ("search", ("abc", 100, START), {"uq_packages_name", "ix_packages_popular"}),
        ("search", ("reqeusts", 20, START), {"uq_packages_name", "ix_packages_popular_trigrams"}),
        ("summary", ("requests",), {"uq_packages_name"}),
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
        assert table in {"ingested_days", "publication", "trending_packages"}, lines
    # However many begin so.
    visited = [int(float(count)) for count in re.findall(r"Rows Removed by Filter: (\d+)", lines)]
    assert sum(visited) <= 25_000, lines


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("method", ["recent_of_many", "overall", "breakdown_of_many"])
async def test_indexes_find_many_packages(
    many: AsyncEngine, sent: list[tuple[Any, ...]], method: str, plan: str
) -> None:
    names = [md5(str(number).encode()).hexdigest() for number in range(1, MAX_PACKAGES + 1)]
    read = DownloadsRepository(many, RETENTION_DAYS)
    window = served_days(days_ago(0), RETENTION_DAYS)
    arguments_of = {
        "recent_of_many": (),
        "overall": (window, window),
        "breakdown_of_many": (window, window, SYSTEM),
    }
    found = await getattr(read, method)(names, *arguments_of[method])
    assert dict(found).keys() == set(names)
    ((statement, *arguments),) = sent
    lines = await _explain(many, plan, statement, arguments)
    assert "uq_packages_name" in _indexes(lines), lines
    assert set(re.findall(r"Seq Scan on (\S+)", lines)) <= {"ingested_days", "publication"}, lines
    # The months' keys give the days in order, and have the totals.
    assert "Sort" not in lines, lines
    if method == "overall":
        assert "Index Only Scan using daily_downloads_" in lines, lines
        assert set(re.findall(r"Heap Fetches: (\d+)", lines)) == {"0"}, lines
        assert "Heap Scan on daily_downloads" not in lines, lines


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
    items = f"{{{','.join(argument)}}}" if isinstance(argument, list) else argument
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
