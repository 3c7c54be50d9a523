"""Connections to Postgres, and the one place where the driver's errors become ours."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from weakref import WeakSet

import asyncpg
import orjson
from sqlalchemy import Executable, Row
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from app.errors import DatabaseUnavailableError
from app.metrics import DATABASE_CONNECTIONS, DATABASE_CONNECTIONS_LIMIT
from app.settings import LIBPQ_ONLY_ARGUMENTS

CONNECT_TIMEOUT_SECONDS = 5

STATEMENT_TIMEOUT_SECONDS = 10
"""Of a request's query, which takes a millisecond. One that waits longer gives its place away."""

CLOSE_TIMEOUT_SECONDS = 3
"""For all connections of an engine together. Those that hang end with the process."""

ENDED_BY_SERVER = {"55P03", "57014", "57P01", "57P02", "57P03"}
"""SQLSTATEs of statements that were cancelled, had no lock in time, or met a server's shutdown."""

POOL_SIZE = 10
"""Connections that a process opens as it needs them, and keeps. A query takes about a millisecond
of one; more would be opened and closed for one query each, which takes several.
"""

POOL_TIMEOUT_SECONDS = 5


def create_engine(
    database_url: str,
    *,
    autocommit: bool = False,
    statement_timeout_seconds: float | None = STATEMENT_TIMEOUT_SECONDS,
) -> AsyncEngine:
    """An engine for a `postgresql://` URL, with a pool to serve from. Nothing connects yet.

    With `autocommit` no transaction is begun, or ended, around the one statement of an answer.
    """
    return create_async_engine(
        asyncpg_url(database_url),
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        # Also where the server's default is another: a publish that waited for the one before it
        # has to see what that has done.
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        pool_reset_on_return=None if autocommit else "rollback",
        connect_args={
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": statement_timeout_seconds,
        },
        json_deserializer=orjson.loads,
    )


_counted: WeakSet[Engine] = WeakSet()


def count_connections(engine: AsyncEngine) -> None:
    """Keep the metrics of the connections that the engine's pool hands out."""
    DATABASE_CONNECTIONS_LIMIT.set(POOL_SIZE)
    _counted.add(engine.sync_engine)


def _note_connections(engine: AsyncEngine) -> None:
    pool = engine.sync_engine.pool
    # The pool's own count: events of a checkout that was cancelled do not come in pairs.
    if engine.sync_engine in _counted and isinstance(pool, QueuePool):
        DATABASE_CONNECTIONS.set(pool.checkedout())


@asynccontextmanager
async def job_engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of a job's own, whose statements may take their time. Its connections end with the
    job, with all that they staged.
    """
    engine = create_engine(database_url, statement_timeout_seconds=None)
    try:
        yield engine
    finally:
        await engine.dispose()


def asyncpg_url(database_url: str) -> URL:
    """The URL as SQLAlchemy's asyncpg dialect takes it.

    Hosts hand out `postgres://` and libpq's arguments: `sslmode` has another name here, and what
    the driver decides by itself is left out.
    """
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    query = {name: value for name, value in url.query.items() if name not in LIBPQ_ONLY_ARGUMENTS}
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    return url.set(query=query)


@asynccontextmanager
async def connect(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection from the pool. What is not committed when it ends is rolled back.

    Raises `DatabaseUnavailableError` when Postgres can't be reached, or goes away.
    """
    database = f"the database at {engine.url.host or engine.url.query.get('host')}"
    try:
        connection = await engine.connect()
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError(f"{database} has no connection free") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailableError(f"{database} can't be reached: {error}") from error
    except DBAPIError as error:
        raise DatabaseUnavailableError(f"{database} can't be reached: {error.orig}") from error
    try:
        _note_connections(engine)
        yield connection
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnavailableError(f"{database} went away") from error
        if getattr(error.orig, "sqlstate", None) in ENDED_BY_SERVER:
            raise DatabaseUnavailableError(f"{database} ended a statement") from error
        raise
    except TimeoutError as error:
        raise DatabaseUnavailableError(f"{database} takes too long to answer") from error
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        # COPY goes to the driver past SQLAlchemy, which would have wrapped these.
        raise DatabaseUnavailableError(f"{database} went away") from error
    finally:
        await connection.close()
        _note_connections(engine)


async def fetch(
    engine: AsyncEngine, query: Executable, arguments: Mapping[str, object] | None = None
) -> Sequence[Row[*tuple[Any, ...]]]:
    """The rows of a query that only reads.

    Asked once more when its connection turns out to be a dead one: after a restart of the server
    the pool is full of them.
    """
    for is_last in (False, True):
        try:
            async with connect(engine) as connection:
                return (await connection.execute(query, arguments)).all()
        except DatabaseUnavailableError as error:
            cause = error.__cause__
            is_lost = isinstance(cause, DBAPIError) and cause.connection_invalidated
            if is_last or not is_lost:
                raise
    raise AssertionError


async def close(engine: AsyncEngine) -> None:
    """Close the pool's connections, for as long as that takes no longer than it may."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await engine.dispose()
