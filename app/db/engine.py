"""SQLAlchemy's engines, which jobs use for writes and reads."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic

import asyncpg
import orjson
from sqlalchemy import URL, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.addresses import DatabaseAddress
from app.db.connection import CLOSE_TIMEOUT_SECONDS, LOCK_MONTHS, open_connection
from app.db.driver_errors import (
    LOST,
    connecting,
    is_lost,
    pooled_per_transaction,
    querying,
    read_only,
)
from app.errors import DatabaseRefusedError, DatabaseUnavailableError

STATEMENT_TIMEOUT_SECONDS = 10

JOB_STATEMENT_TIMEOUT_SECONDS = 3600
"""Timeout of a job's statement. It ends the wait for a server that has died without a notice."""

POOL_TIMEOUT_SECONDS = 5

log = logging.getLogger(__name__)


def create_engine(
    database_url: str,
    *,
    read_only: bool = False,
    statement_timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS,
) -> AsyncEngine:
    """Return an engine for a `postgresql://` URL. It connects when it is first used.

    With `read_only`, the server refuses to write.
    """
    address = DatabaseAddress.parse(database_url)
    return create_async_engine(
        # The host is only shown in error messages.
        URL.create("postgresql+asyncpg", host=str(address)),
        async_creator=partial(
            open_connection,
            address,
            statement_timeout_seconds=statement_timeout_seconds,
            session={"default_transaction_read_only": "on"} if read_only else None,
        ),
        pool_size=10,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        # A job may reuse a connection after minutes, when the server may have been restarted.
        pool_pre_ping=True,
        # The server's default may differ. A publish that has waited for another publish has to see
        # its rows.
        isolation_level="READ COMMITTED",
        json_deserializer=orjson.loads,
    )


@asynccontextmanager
async def job_engine(database_url: str, *, read_only: bool = False) -> AsyncIterator[AsyncEngine]:
    """Yield an engine whose statements may take long, and close its connections at the end."""
    engine = create_engine(
        database_url,
        read_only=read_only,
        statement_timeout_seconds=JOB_STATEMENT_TIMEOUT_SECONDS,
    )
    try:
        yield engine
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await engine.dispose()


@asynccontextmanager
async def connect(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Yield a connection from the engine's pool. Uncommitted changes are rolled back at the end.

    Raises `DatabaseUnavailableError` if Postgres can't be reached or goes away, or if the block
    raises the driver's `TimeoutError`.
    """
    database = str(engine.url.host)
    with connecting(database):
        connection = await engine.connect()
    try:
        with querying(database):
            try:
                yield connection
            except Exception as error:
                if is_lost(error):
                    await connection.invalidate()
                raise
    finally:
        await _close(connection)


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Yield a connection with a read-only transaction that sees one state of the whole database."""
    async with connect(engine) as connection:
        await connection.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        await connection.execute(text(LOCK_MONTHS))
        yield connection


async def _close(connection: AsyncConnection) -> None:
    """Return a connection to the pool. Ignore errors of a dead connection or a silent server,
    because Postgres rolls back by itself, and the original exception must not be masked.
    """
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await connection.close()
    except (DBAPIError, TimeoutError, *LOST) as error:
        if not (isinstance(error, TimeoutError) or is_lost(error)):
            raise


def driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    """Return the driver's own connection."""
    assert connection.sync_connection
    driver = connection.sync_connection.connection.driver_connection
    assert isinstance(driver, asyncpg.Connection)
    return driver


async def check_session(engine: AsyncEngine) -> None:
    """Raise `DatabaseRefusedError` if a pooler assigns a server session to each transaction instead
    of each connection.
    """
    process = select(func.pg_backend_pid())
    async with connect(engine) as first, connect(engine) as second:
        before = await first.scalar(process)
        await first.rollback()
        # In transaction mode, the second connection gets the session that has just become free.
        other = await second.scalar(process)
        if before == other or before != await first.scalar(process):
            raise pooled_per_transaction(str(engine.url.host))


async def check_writable(engine: AsyncEngine) -> None:
    """Raise `DatabaseRefusedError` if the database accepts no changes."""
    async with connect(engine) as connection:
        if await connection.scalar(text("SHOW transaction_read_only")) == "on":
            raise DatabaseRefusedError(read_only(str(engine.url.host)))


async def wait_for_database(engine: AsyncEngine, seconds: float) -> None:
    """Wait until the database can be reached.

    Raises `DatabaseUnavailableError` if that takes longer, or `DatabaseRefusedError` at once.
    """
    deadline = monotonic() + seconds
    is_waiting = False
    while True:
        try:
            async with connect(engine):
                return
        except DatabaseUnavailableError as error:
            if not error.is_temporary or monotonic() >= deadline:
                raise
            if not is_waiting:
                log.warning("waiting up to %g s: %s", seconds, error)
        is_waiting = True
        await asyncio.sleep(0.5)
