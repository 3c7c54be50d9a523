"""The pool of the reads that answer requests, on a real server that goes away."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from signal import SIGCONT, SIGSTOP

import asyncpg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import func, literal_column, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect
from app.db.pool import POOL_SIZE, ReadPool
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.statements import Statement, fetch
from app.domain.downloads import RecentDownloads
from app.errors import DatabaseUnavailableError, NotFoundError
from tests.days import days_ago, downloads, publish
from tests.waiting import PATIENCE_SECONDS, until, until_blocked

OF_OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
OTHERS = text(f"SELECT count(*) {OF_OTHERS}")
END_OTHERS = text(f"SELECT count(pg_terminate_backend(pid)) {OF_OTHERS}")

PROCESS = Statement(select(func.pg_backend_pid()))


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[ReadPool]:
    pool = ReadPool(database_url)
    await pool.open()
    yield pool
    await pool.close()


@asynccontextmanager
async def _held(pool: ReadPool, count: int = POOL_SIZE) -> AsyncIterator[None]:
    """Hold some connections of the pool, by default all."""
    async with AsyncExitStack() as held:
        for _ in range(count):
            await held.enter_async_context(pool.snapshot())
        yield


async def _read_with_all(pool: ReadPool) -> None:
    """Read with every connection of the pool, so that all are open."""
    async with _held(pool):
        pass


async def _are_others(engine: AsyncEngine, count: int) -> bool:
    async with connect(engine) as connection:
        return bool(await connection.scalar(OTHERS) == count)


async def test_reads_survive_a_restart_of_the_server(pool: ReadPool, engine: AsyncEngine) -> None:
    repository = DownloadsRepository(pool, 180)
    await _read_with_all(pool)
    async with connect(engine) as connection:
        assert await connection.scalar(END_OTHERS) == POOL_SIZE
    for _ in range(POOL_SIZE):
        assert await repository.recent("flask") is None
        assert await repository.publication() is None


@pytest.mark.parametrize(
    "error", [asyncpg.ConnectionDoesNotExistError, asyncpg.InternalClientError]
)
async def test_one_dead_connection_expires_all_others(
    pool: ReadPool, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """The driver has not noticed yet that they are dead."""
    await _read_with_all(pool)
    failed = _kill_open_connections(error, monkeypatch)
    for _ in range(POOL_SIZE):
        assert len(await fetch(pool, PROCESS)) == 1
    assert len(failed) == 1


def _kill_open_connections(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> Sequence[object]:
    """Make queries on the connections that are now open fail. Return the connections that were used
    since.
    """
    fetch = asyncpg.Connection.fetch
    connect = asyncpg.connect
    newer: list[object] = []
    used: list[object] = []

    async def connect_and_note(*arguments: object, **options: object) -> object:
        newer.append(await connect(*arguments, **options))
        return newer[-1]

    async def fail(connection: asyncpg.Connection, *arguments: object) -> object:
        if connection not in newer:
            used.append(connection)
            raise error("lost")
        return await fetch(connection, *arguments)

    monkeypatch.setattr(asyncpg, "connect", connect_and_note)
    monkeypatch.setattr(asyncpg.Connection, "fetch", fail)
    return used


async def test_reads_that_end_while_the_pool_closes_leave_no_connection(
    pool: ReadPool, engine: AsyncEngine
) -> None:
    asking = asyncio.create_task(fetch(pool, Statement(select(func.pg_sleep(1)))))
    await until(partial(_are_others, engine, 1))
    await pool.close()
    await asking
    await until(partial(_are_others, engine, 0))


@pytest.mark.parametrize("how", ["read", "snapshot"])
async def test_a_silent_server_does_not_keep_a_pool_from_closing(
    pool: ReadPool, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.pool.CLOSE_TIMEOUT_SECONDS", 0.1)
    ((process,),) = await fetch(pool, PROCESS)

    async def read() -> None:
        if how == "read":
            await fetch(pool, PROCESS)
        else:
            async with pool.snapshot():
                pass

    os.kill(process, SIGSTOP)
    try:
        asking = asyncio.create_task(read())
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await pool.close()
            with pytest.raises(DatabaseUnavailableError):
                await asking
    finally:
        os.kill(process, SIGCONT)


async def test_an_error_in_a_statement_leaves_the_connection_open(pool: ReadPool) -> None:
    ((before,),) = await fetch(pool, PROCESS)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await fetch(pool, Statement(select(literal_column("1 / 0"))))
    assert await fetch(pool, PROCESS) == [(before,)]


async def test_an_error_in_a_snapshot_ends_its_transaction(pool: ReadPool) -> None:
    ((before,),) = await fetch(pool, PROCESS)
    with pytest.raises(NotFoundError, match="gone"):
        async with pool.snapshot():
            raise NotFoundError("gone")
    level = Statement(text("SELECT current_setting('transaction_isolation'), pg_backend_pid()"))
    assert await fetch(pool, level) == [("read committed", before)]


async def test_reads_have_generic_plans_and_keepalives(pool: ReadPool) -> None:
    names = ("plan_cache_mode", "tcp_keepalives_idle")
    settings = Statement(select(*(func.current_setting(name) for name in names)))
    async with pool.snapshot() as connection:
        # The tests' socket is no TCP connection, which has no such value.
        assert [tuple(row) for row in await fetch(connection, settings)] == [
            ("force_generic_plan", "0")
        ]


async def test_cancelled_and_timed_out_reads_leave_no_connection_in_use(
    database_url: str, engine: AsyncEngine
) -> None:
    pool = ReadPool(database_url, read_timeout_seconds=2)
    await pool.open()
    repository = DownloadsRepository(pool, 180)
    # The connections are opened first: only the statements have to begin before they time out.
    await _read_with_all(pool)
    async with connect(engine) as blocking:
        await blocking.execute(text("LOCK TABLE packages"))
        asking = [asyncio.create_task(repository.recent("flask")) for _ in range(POOL_SIZE)]
        await until_blocked(engine, sessions=POOL_SIZE)
        for task in asking[:5]:
            task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in ended] == [
        *[asyncio.CancelledError] * 5,
        *[DatabaseUnavailableError] * 5,
    ]
    await _read_with_all(pool)
    assert await repository.recent("flask") is None
    await pool.close()


async def test_a_query_is_answered_on_a_schema_that_has_changed(
    pool: ReadPool, engine: AsyncEngine
) -> None:
    """The plan that the connection has cached has another type for the column."""
    repository = DownloadsRepository(pool, 180)
    await publish(engine, days_ago(0), downloads("flask", 1))
    for _ in range(3):
        assert await repository.recent("flask") == RecentDownloads(1, 1, 1)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE packages ALTER last_day TYPE numeric"))
    assert await repository.recent("flask") == RecentDownloads(1, 1, 1)


@pytest.fixture
async def reader_pool(database_url: str, engine: AsyncEngine) -> AsyncIterator[ReadPool]:
    """A pool whose user is no superuser and may read all tables."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE ROLE reader LOGIN"))
        await connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"))
    url = make_url(database_url).set(username="reader")
    pool = ReadPool(url.render_as_string(hide_password=False))
    await pool.open()
    yield pool
    await pool.close()
    async with engine.begin() as connection:
        await connection.execute(text("DROP OWNED BY reader"))
        await connection.execute(text("DROP ROLE reader"))


@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        ("ALTER TABLE {} RENAME TO mislaid", "ALTER TABLE mislaid RENAME TO {}"),
        ("REVOKE SELECT ON {} FROM reader", "GRANT SELECT ON {} TO reader"),
    ],
)
async def test_a_database_that_can_not_be_used_is_unavailable(
    reader_pool: ReadPool, engine: AsyncEngine, damage: str, repair: str
) -> None:
    """For example while it is restored. Nothing is wrong with the statement."""
    repository = DownloadsRepository(reader_pool, 180)
    await publish(engine, days_ago(0), downloads("flask", 1))

    async def execute(statement: str) -> None:
        async with engine.begin() as connection:
            await connection.execute(text(statement.format("packages")))

    await execute(damage)
    with pytest.raises(DatabaseUnavailableError, match=r"can't be used: .*packages"):
        await repository.recent("flask")
    with pytest.raises(DatabaseUnavailableError, match=r"can't be used: .*packages"):
        async with reader_pool.snapshot() as connection:
            await repository.with_source(connection, None).recent("flask")
    await execute(repair)
    assert await repository.recent("flask") == RecentDownloads(1, 1, 1)


async def test_connections_in_use_are_counted(pool: ReadPool, engine: AsyncEngine) -> None:
    def in_use() -> float | None:
        return REGISTRY.get_sample_value("pypi_stats_database_connections")

    # Reads of closed pools, whose server was silent, may still end.
    await until(lambda: in_use() == 0)
    async with pool.snapshot(), pool.snapshot(), connect(engine):
        assert in_use() == 2
    assert in_use() == 0
    # Also reads that are cancelled while they wait for a connection.
    async with connect(engine) as blocking:
        await blocking.execute(text("LOCK TABLE ingested_days"))
        repository = DownloadsRepository(pool, 180)
        asking = [asyncio.create_task(repository.publication()) for _ in range(2 * POOL_SIZE)]
        await until(lambda: in_use() == POOL_SIZE)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    async with pool.snapshot():
        assert in_use() == 1
    assert in_use() == 0


async def test_connections_are_assigned_in_order_of_arrival(pool: ReadPool) -> None:
    """A newcomer does not overtake those who wait."""
    order: list[str] = []

    async def take(name: str) -> None:
        async with pool.snapshot():
            order.append(name)

    async with _held(pool, POOL_SIZE - 1):
        async with pool.snapshot():
            waiting = [asyncio.create_task(take(name)) for name in ("first", "second")]
            await asyncio.sleep(0)
        await take("third")
        await asyncio.gather(*waiting)
    assert order == ["first", "second", "third"]


async def test_a_read_times_out_waiting_for_a_connection(
    pool: ReadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.pool.CONNECTION_WAIT_SECONDS", 0.01)
    async with _held(pool):
        with pytest.raises(DatabaseUnavailableError, match="no connection free"):
            await fetch(pool, PROCESS)
    await fetch(pool, PROCESS)


async def test_failed_and_cancelled_reads_free_their_slot(pool: ReadPool) -> None:
    nowhere = ReadPool("postgresql://u@127.0.0.1:1/d")
    await nowhere.open()
    for _ in range(POOL_SIZE + 1):
        with pytest.raises(DatabaseUnavailableError, match="can't be reached"):
            await fetch(nowhere, PROCESS)
    await nowhere.close()
    async with _held(pool):
        waiting = [asyncio.create_task(fetch(pool, PROCESS)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    await _read_with_all(pool)
