import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from signal import SIGCONT, SIGSTOP

import asyncpg
import pytest
from asyncpg.prepared_stmt import PreparedStatement
from prometheus_client import REGISTRY
from sqlalchemy import event, func, literal_column, select, text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from app.db.engine import (
    POOL_SIZE,
    Statement,
    asyncpg_url,
    connect,
    count_connections,
    create_engine,
    driver_of,
    fetch,
    fetch_raw,
    job_engine,
)
from app.db.repositories.downloads_repository import DownloadsRepository
from app.domain.downloads import RecentDownloads
from app.errors import DatabaseUnavailableError
from tests.days import days_ago, downloads, publish
from tests.waiting import PATIENCE_SECONDS, until, until_blocked

_OF_OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
OTHERS = text(f"SELECT count(*) {_OF_OTHERS}")
END_OTHERS = text(f"SELECT count(pg_terminate_backend(pid)) {_OF_OTHERS}")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://u:p@h:1/d", "postgresql+asyncpg://u:p@h:1/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgres://u@h/d?sslmode=require", "postgresql+asyncpg://u@h/d?ssl=require"),
        (
            "postgres://u@h/d?connect_timeout=3&sslmode=require&channel_binding=require",
            "postgresql+asyncpg://u@h/d?ssl=require",
        ),
    ],
)
def test_any_postgres_url_will_do(given: str, used: str) -> None:
    assert asyncpg_url(given).render_as_string(hide_password=False) == used


async def test_a_connection_that_is_cut_is_unavailable_and_the_next_one_works(
    engine: AsyncEngine,
) -> None:
    with pytest.raises(DatabaseUnavailableError, match="went away"):
        async with connect(engine) as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    async with connect(engine) as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize("is_noticed", [False, True])
@pytest.mark.parametrize("autocommit", [False, True])
async def test_one_that_is_cut_while_nothing_is_asked_of_it_hides_nothing(
    database_url: str, engine: AsyncEngine, autocommit: bool, is_noticed: bool
) -> None:
    """As while an ingest reads its source: there is nothing to roll back any more."""
    own = create_engine(database_url, autocommit=autocommit)

    async def cut(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT 1"))
        driver = driver_of(connection)
        async with connect(engine) as other:
            assert await other.scalar(END_OTHERS) == 1
        if is_noticed:
            await until(partial(_is_closed, driver))

    async def fail() -> None:
        async with connect(own) as connection:
            await cut(connection)
            raise ZeroDivisionError

    for _ in range(POOL_SIZE):
        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await fetch(own, text("SELECT 1")) == [(1,)]
        async with connect(own) as connection:
            await cut(connection)
        assert await fetch(own, text("SELECT 1")) == [(1,)]
    await own.dispose()


async def _is_closed(driver: asyncpg.Connection) -> bool:
    return bool(driver.is_closed())


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_server_that_is_silent_hides_nothing(database_url: str, is_cancelled: bool) -> None:
    """A rollback would be waited for as long as a job's statement may take."""
    async with job_engine(database_url) as own:
        begun = asyncio.get_running_loop().create_future()
        is_silent = asyncio.Event()

        async def ask() -> None:
            async with connect(own) as connection:
                begun.set_result(await connection.scalar(select(func.pg_backend_pid())))
                if is_cancelled:
                    await asyncio.Event().wait()
                await is_silent.wait()
                raise ZeroDivisionError

        asking = asyncio.create_task(ask())
        silent = await begun
        os.kill(silent, SIGSTOP)
        is_silent.set()
        try:
            if is_cancelled:
                asking.cancel()
            await asyncio.wait([asking], timeout=PATIENCE_SECONDS)
            assert asking.done()
        finally:
            os.kill(silent, SIGCONT)
        with pytest.raises(asyncio.CancelledError if is_cancelled else ZeroDivisionError):
            await asking
        pool = own.sync_engine.pool
        assert isinstance(pool, QueuePool)
        assert pool.checkedout() == 0


async def test_what_is_wrong_with_a_statement_stays_what_it_is(engine: AsyncEngine) -> None:
    with pytest.raises(DBAPIError, match="nothing"):
        async with connect(engine) as connection:
            await connection.execute(text("SELECT * FROM nothing"))


async def test_a_statement_that_waits_too_long_gives_its_place_away(database_url: str) -> None:
    engine = create_engine(database_url, statement_timeout_seconds=1.0)
    with pytest.raises(DatabaseUnavailableError, match="too long"):
        async with connect(engine) as connection:
            await connection.execute(text("SELECT pg_sleep(5)"))
    async with connect(engine) as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


@pytest.mark.parametrize("database", ["no_such_database"])
async def test_a_database_that_refuses_is_unavailable(server_url: str, database: str) -> None:
    engine = create_engine(server_url.replace("/pypi_stats?", f"/{database}?"))
    with pytest.raises(DatabaseUnavailableError, match=database):
        async with connect(engine):
            pass
    await engine.dispose()


async def test_a_restart_of_the_server_is_not_seen(database_url: str, engine: AsyncEngine) -> None:
    """The pool is full of connections that are none any more."""
    serving = create_engine(database_url, autocommit=True)
    repository = DownloadsRepository(serving, 180)
    await asyncio.gather(*(repository.publication() for _ in range(5)))
    async with connect(engine) as connection:
        assert await connection.scalar(END_OTHERS)
    for _ in range(10):
        assert await repository.recent("flask") is None
        assert await repository.publication() is None
    await serving.dispose()


async def test_nor_is_it_where_nothing_goes_through_sqlalchemy(
    database_url: str, engine: AsyncEngine
) -> None:
    """Which would find out, of all connections at once."""
    serving = create_engine(database_url, autocommit=True)
    repository = DownloadsRepository(serving, 180)
    await asyncio.gather(*(repository.recent("flask") for _ in range(POOL_SIZE)))
    async with connect(engine) as connection:
        assert await connection.scalar(END_OTHERS) == POOL_SIZE
    for _ in range(POOL_SIZE):
        assert await repository.recent("flask") is None
    await serving.dispose()


@pytest.mark.parametrize(
    "error", [asyncpg.ConnectionDoesNotExistError, asyncpg.InternalClientError]
)
@pytest.mark.parametrize("used_by", ["recent", "publication"])
async def test_where_one_is_lost_no_other_of_its_time_is_used(
    database_url: str, monkeypatch: pytest.MonkeyPatch, error: type[Exception], used_by: str
) -> None:
    """The driver has yet to find out about them, be they kept or in SQLAlchemy's pool."""
    serving = create_engine(database_url, autocommit=True)
    repository = DownloadsRepository(serving, 180)
    opened = _opened(serving)
    await asyncio.gather(
        *(
            repository.recent("flask") if used_by == "recent" else repository.publication()
            for _ in range(POOL_SIZE)
        )
    )
    assert len(opened) == POOL_SIZE
    failed = _lose(opened, error, monkeypatch)
    for _ in range(POOL_SIZE):
        assert await repository.recent("flask") is None
    assert len(failed) == 1
    await serving.dispose()


async def test_those_that_are_lost_take_none_with_them_that_was_opened_since(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = create_engine(database_url, autocommit=True)
    repository = DownloadsRepository(serving, 180)
    opened = _opened(serving)
    await asyncio.gather(*(repository.recent("flask") for _ in range(POOL_SIZE)))
    is_one_answered = asyncio.Event()
    failed = _lose(opened, asyncpg.ConnectionDoesNotExistError, monkeypatch, is_one_answered)
    asking = [asyncio.create_task(repository.recent("flask")) for _ in range(POOL_SIZE)]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    is_one_answered.set()
    await asyncio.gather(*asking)
    await asyncio.gather(*(repository.recent("flask") for _ in range(POOL_SIZE)))
    assert (len(failed), len(opened)) == (POOL_SIZE, 2 * POOL_SIZE)
    await serving.dispose()


def _opened(engine: AsyncEngine) -> list[object]:
    """The driver's connections, as they are opened."""
    opened: list[object] = []

    def add(connection: AsyncAdapt_asyncpg_connection, _: object) -> None:
        opened.append(connection.driver_connection)

    event.listen(engine.sync_engine, "connect", add)
    return opened


def _lose(
    opened: Sequence[object],
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    others_wait_for: asyncio.Event | None = None,
) -> list[object]:
    """Makes what was opened fail. Gives those that were used after; all but the first fail when
    they may.
    """
    lost = set(opened)
    used: list[object] = []
    fetch = asyncpg.Connection.fetch

    async def failing(connection: asyncpg.Connection, *arguments: object) -> object:
        if connection in lost:
            used.append(connection)
            if len(used) > 1 and others_wait_for:
                await others_wait_for.wait()
            raise error("lost")
        return await fetch(connection, *arguments)

    monkeypatch.setattr(asyncpg.Connection, "fetch", failing)
    return used


async def test_one_that_is_lost_is_used_by_nobody(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = create_engine(database_url, autocommit=True)
    statement = select(func.pg_backend_pid())
    ((lost,),) = await fetch(serving, statement)
    failing = _failing_once(PreparedStatement.fetch, asyncpg.InternalClientError)
    monkeypatch.setattr(PreparedStatement, "fetch", failing)
    ((used,),) = await fetch(serving, statement)
    assert used != lost
    await serving.dispose()


def _failing_once(
    function: Callable[..., Awaitable[object]], error: type[Exception]
) -> Callable[..., Awaitable[object]]:
    failures = [error("lost")]

    async def failing(*arguments: object, **named_arguments: object) -> object:
        if failures:
            raise failures.pop()
        return await function(*arguments, **named_arguments)

    return failing


async def test_what_is_asked_while_an_engine_is_disposed_of_leaves_nothing_behind(
    database_url: str, engine: AsyncEngine
) -> None:
    serving = create_engine(database_url, autocommit=True)
    asking = asyncio.create_task(fetch_raw(serving, Statement(select(func.pg_sleep(1))), {}))

    async def others(count: int) -> bool:
        async with connect(engine) as connection:
            return bool(await connection.scalar(OTHERS) == count)

    await until(partial(others, 1))
    await serving.dispose()
    await asking
    await until(partial(others, 0))


async def test_what_is_kept_for_plain_reads_is_there_for_others_and_is_closed_at_the_end(
    database_url: str, engine: AsyncEngine
) -> None:
    serving = create_engine(database_url, autocommit=True)
    repository = DownloadsRepository(serving, 180)
    await asyncio.gather(*(repository.recent("flask") for _ in range(POOL_SIZE)))
    async with AsyncExitStack() as held:
        for _ in range(POOL_SIZE):
            await held.enter_async_context(connect(serving))
    await asyncio.gather(*(repository.recent("flask") for _ in range(POOL_SIZE)))

    async def others() -> int:
        async with connect(engine) as connection:
            return int(await connection.scalar(OTHERS) or 0)

    assert await others() == POOL_SIZE
    await serving.dispose()

    async def are_gone() -> bool:
        return await others() == 0

    await until(are_gone)


async def test_a_statement_that_fails_leaves_its_connection_as_it_was(engine: AsyncEngine) -> None:
    async def process() -> int:
        ((pid,),) = await fetch_raw(engine, Statement(select(func.pg_backend_pid())), {})
        return int(pid)

    before = await process()
    with pytest.raises(asyncpg.DivisionByZeroError):
        await fetch_raw(engine, Statement(select(literal_column("1 / 0"))), {})
    assert await process() == before


async def test_a_request_that_is_given_up_leaves_no_connection_behind_that_is_in_use(
    database_url: str, engine: AsyncEngine
) -> None:
    serving = create_engine(database_url, autocommit=True, statement_timeout_seconds=2)
    repository = DownloadsRepository(serving, 180)
    # The connections are opened first: only the statements have to begin before they time out.
    await asyncio.gather(*(repository.recent("flask") for _ in range(10)))
    async with connect(engine) as blocking:
        await blocking.execute(text("LOCK TABLE packages"))
        asking = [asyncio.create_task(repository.recent("flask")) for _ in range(10)]
        await until_blocked(engine, sessions=10)
        for task in asking[:5]:
            task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in ended] == [
        *[asyncio.CancelledError] * 5,
        *[DatabaseUnavailableError] * 5,
    ]
    for _ in range(10):
        assert await asyncio.gather(*(repository.recent("flask") for _ in range(5))) == [None] * 5
    await serving.dispose()


async def test_a_query_is_answered_on_a_schema_that_has_changed(
    database_url: str, engine: AsyncEngine
) -> None:
    """By the plan that the connection has made before, a column would be of another type."""
    serving = create_engine(database_url, autocommit=True)
    repository = DownloadsRepository(serving, 180)
    await publish(engine, days_ago(0), downloads("flask", 1))
    for _ in range(3):
        assert await repository.recent("flask") == RecentDownloads(1, 1, 1)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE packages ALTER last_day TYPE numeric"))
    assert await repository.recent("flask") == RecentDownloads(1, 1, 1)
    await serving.dispose()


async def test_a_statement_that_the_server_ends_can_be_tried_later(
    database_url: str, engine: AsyncEngine
) -> None:
    async with connect(engine) as blocking:
        await blocking.execute(text("LOCK TABLE ingested_days"))
        asking = asyncio.create_task(DownloadsRepository(engine, 180).publication())

        async def is_cancelled() -> bool:
            query = (
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            async with connect(engine) as connection:
                return bool(await connection.scalar(text(query)))

        await until(is_cancelled)
        with pytest.raises(DatabaseUnavailableError, match="gave up: canceling statement"):
            await asking


async def test_connections_in_use_are_counted(database_url: str, engine: AsyncEngine) -> None:
    serving = create_engine(database_url, autocommit=True)
    count_connections(serving)

    def in_use() -> float | None:
        return REGISTRY.get_sample_value("pypi_stats_database_connections")

    async with connect(serving), connect(serving), connect(engine):
        assert in_use() == 2
    assert in_use() == 0
    # Requests that are given up while they wait for a connection, too.
    async with connect(engine) as blocking:
        await blocking.execute(text("LOCK TABLE ingested_days"))
        repository = DownloadsRepository(serving, 180)
        asking = [asyncio.create_task(repository.publication()) for _ in range(20)]
        await until(lambda: in_use() == 10)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    async with connect(serving):
        assert in_use() == 1
    assert in_use() == 0
    await serving.dispose()


async def test_connections_are_given_in_the_order_of_asking(engine: AsyncEngine) -> None:
    """Whoever comes when one is given back does not get it before those who wait."""
    order: list[str] = []

    async def take(name: str) -> None:
        async with connect(engine) as connection:
            order.append(name)
            await connection.execute(text("SELECT 1"))

    async with AsyncExitStack() as held:
        for _ in range(POOL_SIZE - 1):
            await held.enter_async_context(connect(engine))
        async with connect(engine):
            waiting = [asyncio.create_task(take(name)) for name in ("first", "second")]
            await asyncio.sleep(0)
        await take("third")
        await asyncio.gather(*waiting)
    assert order == ["first", "second", "third"]


async def test_a_connection_is_waited_for_no_longer_than_it_is_worth(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.engine.POOL_TIMEOUT_SECONDS", 0.01)
    async with AsyncExitStack() as held:
        for _ in range(POOL_SIZE):
            await held.enter_async_context(connect(engine))
        with pytest.raises(DatabaseUnavailableError, match="no connection free"):
            async with connect(engine):
                pytest.fail("there was one")
    async with connect(engine) as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


async def test_who_fails_or_gives_up_gives_back_its_turn(engine: AsyncEngine) -> None:
    nowhere = create_engine("postgresql://u@127.0.0.1:1/d")
    for _ in range(POOL_SIZE + 1):
        with pytest.raises(DatabaseUnavailableError, match="can't be reached"):
            async with connect(nowhere):
                pytest.fail("there was one")

    async def take() -> None:
        async with connect(engine):
            pass

    async with AsyncExitStack() as held:
        for _ in range(POOL_SIZE):
            await held.enter_async_context(connect(engine))
        waiting = [asyncio.create_task(take()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    async with AsyncExitStack() as held:
        for _ in range(POOL_SIZE):
            await held.enter_async_context(connect(engine))
