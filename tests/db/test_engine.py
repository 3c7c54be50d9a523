import asyncio
import os
import socket
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import asyncpg
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from app.db.embedded import embedded_postgres
from app.db.engine import connect, create_engine, driver_of, job_engine
from app.db.pool import ReadPool
from app.db.repositories.downloads_repository import DownloadsRepository
from app.errors import DatabaseUnavailableError
from tests.db.test_pool import END_OTHERS
from tests.waiting import PATIENCE_SECONDS, until

PG_VARIABLES = {
    "PGCLIENTENCODING": "LATIN1",
    "PGDATA": "/nonexistent",
    "PGDATABASE": "other",
    "PGGSSLIB": "other",
    "PGHOST": "192.0.2.1",
    "PGHOSTADDR": "192.0.2.1",
    "PGOPTIONS": "-c search_path=other",
    "PGPASSFILE": "/nonexistent",
    "PGPASSWORD": "other",
    "PGPORT": "1",
    "PGSERVICE": "other",
    "PGSERVICEFILE": "/nonexistent",
    "PGSSLCERT": "/nonexistent",
    "PGSSLMINPROTOCOLVERSION": "other",
    "PGSSLMODE": "verify-full",
    "PGSSLNEGOTIATION": "direct",
    "PGTARGETSESSIONATTRS": "standby",
    "PGTZ": "Asia/Tokyo",
    "PGUSER": "other",
}


async def test_variables_of_libpq_have_no_effect(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in PG_VARIABLES.items():
        monkeypatch.setenv(name, value)
    with embedded_postgres(data_dir) as url:
        pool = ReadPool(url)
        await pool.open()
        ((zone, path),) = await pool.fetch(
            "SELECT current_setting('timezone'), current_setting('search_path')", []
        )
        await pool.close()
        assert zone in ("UTC", "GMT", "Etc/UTC")
        assert path == '"$user", public'
        async with job_engine(url) as engine, connect(engine) as connection:
            assert await connection.scalar(select(func.current_database())) == "pypi_stats"


@pytest.mark.parametrize("query", ["", "&target_session_attrs=primary", "&ssl=true"])
async def test_hosts_are_tried_in_order(server_url: str, data_dir: Path, query: str) -> None:
    """No socket, a server that does not answer within the timeout, and then the right one."""
    silent = data_dir / "silent"
    silent.mkdir()
    hosts = f"/nonexistent,{silent},"
    url = f"{server_url.replace('host=', f'host={hosts}')}&connect_timeout=1{query}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(silent / ".s.PGSQL.5432"))
        listener.listen()
        async with job_engine(url) as engine, connect(engine) as connection:
            assert await connection.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize(
    ("attributes", "is_found"), [("read-write", True), ("prefer-standby", True), ("standby", False)]
)
async def test_kinds_of_servers(server_url: str, attributes: str, is_found: bool) -> None:
    async with job_engine(f"{server_url}&target_session_attrs={attributes}") as engine:
        refused = pytest.raises(DatabaseUnavailableError, match="can't be reached: None of")
        with nullcontext() if is_found else refused:
            async with connect(engine) as connection:
                assert await connection.scalar(text("SELECT 1")) == 1


async def test_startup_parameters_are_sent(server_url: str) -> None:
    url = f"{server_url}&application_name=a%20b&options=-c%20work_mem%3D7MB"
    async with job_engine(url) as engine, connect(engine) as connection:
        assert await connection.scalar(text("SHOW application_name")) == "a b"
        assert await connection.scalar(text("SHOW work_mem")) == "7MB"


async def test_a_lost_connection_is_unavailable_and_the_next_one_works(
    engine: AsyncEngine,
) -> None:
    with pytest.raises(DatabaseUnavailableError, match="went away"):
        async with connect(engine) as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    async with connect(engine) as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize("is_noticed", [False, True])
async def test_a_connection_that_is_lost_while_idle_masks_no_exception(
    database_url: str, engine: AsyncEngine, is_noticed: bool
) -> None:
    """The connection is idle, as while an ingest reads its source."""
    own = create_engine(database_url)

    async def cut(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT 1"))
        driver = driver_of(connection)
        async with connect(engine) as other:
            # The one before it may still be ending.
            assert await other.scalar(END_OTHERS) >= 1
        if is_noticed:
            await until(partial(_is_closed, driver))

    async def fail() -> None:
        async with connect(own) as connection:
            await cut(connection)
            raise ZeroDivisionError

    async def works() -> bool:
        async with connect(own) as connection:
            return bool(await connection.scalar(text("SELECT 1")) == 1)

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await works()
        async with connect(own) as connection:
            await cut(connection)
        assert await works()
    await own.dispose()


async def _is_closed(driver: asyncpg.Connection) -> bool:
    return bool(driver.is_closed())


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_silent_server_masks_no_exception(database_url: str, is_cancelled: bool) -> None:
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


async def test_errors_of_a_statement_are_not_translated(engine: AsyncEngine) -> None:
    with pytest.raises(DBAPIError, match="nothing"):
        async with connect(engine) as connection:
            await connection.execute(text("SELECT * FROM nothing"))


async def test_a_statement_that_times_out_frees_its_connection(database_url: str) -> None:
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
        with pytest.raises(
            DatabaseUnavailableError, match="cancelled the statement: canceling statement"
        ):
            await asking


async def test_waiting_for_a_connection_times_out(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.engine.POOL_TIMEOUT_SECONDS", 0.01)
    engine = create_engine(database_url)
    async with AsyncExitStack() as held:
        for _ in range(10):
            await held.enter_async_context(connect(engine))
        with pytest.raises(DatabaseUnavailableError, match="no connection free"):
            async with connect(engine):
                pytest.fail("there was one")
    async with connect(engine) as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()
