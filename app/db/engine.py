"""Connections to Postgres, and the one place where the driver's errors become ours."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import asyncpg
import orjson
from sqlalchemy import Executable, Row, Select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql.compiler import SQLCompiler
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    wait_fixed,
)

from app.errors import DatabaseRefusedError, DatabaseUnavailableError, StatsError
from app.metrics import DATABASE_CONNECTIONS, DATABASE_CONNECTIONS_LIMIT
from app.settings import LIBPQ_ONLY_ARGUMENTS

CONNECT_TIMEOUT_SECONDS = 5

STATEMENT_TIMEOUT_SECONDS = 10
"""Of a request's query, which takes a millisecond. One that waits longer gives its place away."""

JOB_STATEMENT_TIMEOUT_SECONDS = 3600
"""Of a job's statement, which takes a minute at most: a connection that is dead without a sign is
not waited for without end.
"""

KEEPALIVES = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""By which the server finds within a minute that a machine is gone, and frees the locks it held."""

CLOSE_TIMEOUT_SECONDS = 3
"""For all connections of an engine together. Those that hang end with the process."""

ENDED_BY_SERVER = {"40001", "40P01", "55P03", "57014", "57P01", "57P02", "57P03"}
"""SQLSTATEs of statements that met others at the same rows, had no lock in time, were cancelled, or
met a server's shutdown.
"""

INSUFFICIENT_RESOURCES = "53"
"""What the SQLSTATEs begin with of a full disk, memory that is used up, or too many connections."""

REFUSED = ("28", "3D", "42501")
"""What the SQLSTATEs begin with of a user, a password, or a database that the server does not know,
and of a user who may not use it.
"""

LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
"""What the driver raises on a connection that is none any more."""

POOL_SIZE = 10
"""Connections that a process opens as it needs them, and keeps. A query takes about a millisecond
of one; more would be opened and closed for one query each, which takes several.
"""

POOL_TIMEOUT_SECONDS = 5

_turns: WeakKeyDictionary[Engine, asyncio.Semaphore] = WeakKeyDictionary()
"""At each engine's connections. The pool has no order of its own: under load whoever has just come
takes what was given back, before one who waits has woken up, and some wait for a second.
"""

WAIT_PAUSE_SECONDS = 0.5
"""Between two attempts to reach a database that has yet to start."""

log = logging.getLogger(__name__)


def create_engine(
    database_url: str,
    *,
    autocommit: bool = False,
    statement_timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS,
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
            "server_settings": KEEPALIVES,
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
    engine = create_engine(database_url, statement_timeout_seconds=JOB_STATEMENT_TIMEOUT_SECONDS)
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


def _is_passing(error: BaseException | None) -> bool:
    """Whether the server refused for a reason that may be gone a little later."""
    sqlstate = getattr(error, "sqlstate", None) or ""
    return sqlstate in ENDED_BY_SERVER or sqlstate.startswith(INSUFFICIENT_RESOURCES)


def ended_by_server(error: BaseException) -> bool:
    """Whether the server ended the statement alone: the connection, with all that it holds, is
    there, and the transaction can be run again.
    """
    return (
        isinstance(error, DBAPIError)
        and not error.connection_invalidated
        and _is_passing(error.orig)
    )


def _why_unavailable(error: Exception) -> str | None:
    """What became of the database; None when the statement itself was at fault."""
    if isinstance(error, TimeoutError):
        return "takes too long to answer"
    cause: BaseException | None = error
    if isinstance(error, DBAPIError):
        cause = error.orig and error.orig.__cause__
        lost = error.connection_invalidated
    else:
        # What goes to the driver past SQLAlchemy, which would have wrapped it.
        lost = isinstance(error, LOST)
    if lost:
        return "went away"
    # Postgres tells in lines of their own what may be done about it.
    return f"gave up: {' '.join(str(cause).split())}" if _is_passing(cause) else None


@asynccontextmanager
async def connect(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection from the pool, for those who wait in their order. What is not committed when it
    ends is rolled back.

    Raises `DatabaseUnavailableError` when Postgres can't be reached, or goes away.
    """
    database = f"the database at {engine.url.host or engine.url.query.get('host')}"
    turns = _turns.setdefault(engine.sync_engine, asyncio.Semaphore(POOL_SIZE))
    try:
        async with asyncio.timeout(POOL_TIMEOUT_SECONDS if turns.locked() else None):
            await turns.acquire()
    except TimeoutError as error:
        raise DatabaseUnavailableError(f"{database} has no connection free") from error
    try:
        try:
            connection = await engine.connect()
        except PoolTimeoutError as error:
            raise DatabaseUnavailableError(f"{database} has no connection free") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            kind = DatabaseUnavailableError
            if (getattr(cause, "sqlstate", None) or "").startswith(REFUSED):
                kind = DatabaseRefusedError
            raise kind(f"{database} can't be reached: {cause}") from error
        try:
            _note_connections(engine)
            yield connection
        except (DBAPIError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            reason = _why_unavailable(error)
            if reason is None:
                raise
            raise DatabaseUnavailableError(f"{database} {reason}") from error
        finally:
            await connection.close()
            _note_connections(engine)
    finally:
        turns.release()


class Statement:
    """A query that is put into words once, for `fetch_raw`."""

    def __init__(self, query: Select[Any]) -> None:
        dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call] # SQLAlchemy's own
        compiled = query.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        self.text = str(compiled)
        self._given = compiled.params
        self._order = compiled.positiontup or ()

    def in_order(self, arguments: Mapping[str, object]) -> list[object]:
        given = self._given | arguments
        return [given[name] for name in self._order]


async def fetch_raw(
    engine: AsyncEngine, statement: Statement, arguments: Mapping[str, object]
) -> list[asyncpg.Record]:
    """As `fetch`, past SQLAlchemy's execution, which takes longer than the driver and Postgres do
    for a row.
    """
    for is_last in (False, True):
        try:
            async with connect(engine) as connection:
                assert connection.sync_connection
                driver = connection.sync_connection.connection.driver_connection
                assert isinstance(driver, asyncpg.Connection)
                rows: list[asyncpg.Record]
                try:
                    rows = await driver.fetch(statement.text, *statement.in_order(arguments))
                except BaseException as error:
                    # Whatever state it is in, nobody else gets it.
                    if driver.is_closed() or not isinstance(error, asyncpg.PostgresError):
                        await connection.invalidate()
                    raise
                return rows
        except DatabaseUnavailableError as error:
            if is_last or not isinstance(error.__cause__, LOST):
                raise
    raise AssertionError


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


async def wait_for_database(engine: AsyncEngine, seconds: float) -> None:
    """Wait until the database can be reached. Raises `DatabaseUnavailableError` when it can't be
    after so long, or refuses.
    """
    async for attempt in AsyncRetrying(
        stop=stop_after_delay(seconds),
        wait=wait_fixed(WAIT_PAUSE_SECONDS),
        retry=retry_if_exception(lambda error: isinstance(error, StatsError) and error.may_pass),
        before_sleep=partial(_tell_waiting, seconds),
        reraise=True,
    ):
        with attempt:
            async with connect(engine):
                return


def _tell_waiting(seconds: float, state: RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome:
        log.warning("waiting up to %g s: %s", seconds, state.outcome.exception())


async def close(engine: AsyncEngine) -> None:
    """Close the pool's connections, for as long as that takes no longer than it may."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await engine.dispose()
