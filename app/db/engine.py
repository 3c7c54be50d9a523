"""Connections to Postgres, and the one place where the driver's errors become ours."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import asyncpg
import orjson
from sqlalchemy import Executable, Row, Select, event
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.compiler import SQLCompiler
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    wait_fixed,
)

from app.errors import DatabaseRefusedError, DatabaseUnavailableError, OperatorError
from app.metrics import DATABASE_CONNECTIONS, DATABASE_CONNECTIONS_LIMIT
from app.setting_types import LIBPQ_ONLY_ARGUMENTS

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

PLANS = {"plan_cache_mode": "force_generic_plan"}
"""Of what is served: one plan of a statement is right for whatever it asks for. To make another for
each package takes longer than to read what it is about.
"""

READ_ONLY = {"default_transaction_read_only": "on"}

CLOSE_TIMEOUT_SECONDS = 3
"""To give back a lock, or a connection; and to close all of an engine together. Those that hang end
with the process.
"""

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

LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # Where it has read that the server ends it, and not yet that it has ended.
    asyncpg.InternalClientError,
)
"""What the driver raises on a connection that is none any more."""

POOL_SIZE = 10
"""Connections that a process opens as it needs them, and keeps. A query takes about a millisecond
of one; more would be opened and closed for one query each, which takes several.
"""

POOL_TIMEOUT_SECONDS = 5


@dataclass(slots=True)
class _Shared:
    """What those share who use the connections of an engine."""

    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(POOL_SIZE))
    """The pool has no order of its own: under load whoever has just come takes what was given
    back, before one who waits has woken up, and some wait for a second.
    """

    kept: list[AsyncConnection] = field(default_factory=list)
    """Taken from the pool, by `fetch_raw`, and not in use. To give one back and take it again takes
    longer than all else that SQLAlchemy and the driver do for a row.
    """

    in_use: int = 0

    generation: int = 0
    """Of connections. One that is lost ends its generation: as a rule the server was started anew,
    and the driver has yet to find out about the others, which nobody gets any more.
    """

    is_over: bool = False
    """The engine was disposed of. What it is used for from then on has a pool of its own."""

    async def keep(self, connection: AsyncConnection) -> None:
        if self.is_over:
            await _give_up(connection)
        else:
            self.kept.append(connection)

    def is_sound(self, connection: AsyncConnection) -> bool:
        return (
            connection.info[_GENERATION] == self.generation
            and not driver_of(connection).is_closed()
        )

    def end(self, generation: int) -> None:
        """One of it is lost. Those of the next may be in use already."""
        self.generation = max(self.generation, generation + 1)


_GENERATION = "generation"
"""By which a connection, for as long as it is open, has its generation with it."""

_shared: WeakKeyDictionary[Engine, _Shared] = WeakKeyDictionary()
"""What is kept holds its engine: both go when that is disposed of."""

WAIT_PAUSE_SECONDS = 0.5
"""Between two attempts to reach a database that has yet to start."""

log = logging.getLogger(__name__)


def create_engine(
    database_url: str,
    *,
    autocommit: bool = False,
    read_only: bool = False,
    statement_timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS,
) -> AsyncEngine:
    """An engine for a `postgresql://` URL, with a pool to serve from. Nothing connects yet.

    With `autocommit` no transaction is begun, or ended, around the one statement of an answer, and
    each statement is planned once for all. With `read_only` the server refuses to write.
    """
    engine = create_async_engine(
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
            "server_settings": KEEPALIVES
            | (PLANS if autocommit else {})
            | (READ_ONLY if read_only else {}),
        },
        json_deserializer=orjson.loads,
    )
    event.listen(engine.sync_engine, "engine_disposed", _close_kept)
    return engine


def _close_kept(engine: Engine) -> None:
    shared = _shared.pop(engine, None)
    if shared is None:
        return
    shared.is_over = True
    while shared.kept:
        connection = shared.kept.pop().sync_connection
        assert connection
        # The pool that it would go back to is none any more.
        connection.invalidate()
        connection.close()


_counted: WeakSet[Engine] = WeakSet()


def count_connections(engine: AsyncEngine) -> None:
    """Keep the metrics of the connections that the engine's pool hands out."""
    DATABASE_CONNECTIONS_LIMIT.set(POOL_SIZE)
    _counted.add(engine.sync_engine)


@asynccontextmanager
async def job_engine(database_url: str, *, read_only: bool = False) -> AsyncIterator[AsyncEngine]:
    """An engine of a job's own, whose statements may take their time. Its connections end with the
    job, with all that they staged.
    """
    engine = create_engine(
        database_url,
        read_only=read_only,
        statement_timeout_seconds=JOB_STATEMENT_TIMEOUT_SECONDS,
    )
    try:
        yield engine
    finally:
        await close(engine)


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


def _cause(error: BaseException) -> BaseException | None:
    """What the driver has raised. What goes to it past SQLAlchemy is not wrapped."""
    return error.orig and error.orig.__cause__ if isinstance(error, DBAPIError) else error


def _is_lost(error: BaseException | None) -> bool:
    """Whether it tells of a connection that is none any more."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(
            _cause(error), asyncpg.InternalClientError
        )
    return isinstance(error, LOST)


def _why_unavailable(error: Exception) -> str | None:
    """What became of the database; None when the statement itself was at fault."""
    if isinstance(error, TimeoutError):
        return "takes too long to answer"
    if _is_lost(error):
        return "went away"
    cause = _cause(error)
    # Postgres tells in lines of their own what may be done about it.
    return f"gave up: {' '.join(str(cause).split())}" if _is_passing(cause) else None


@asynccontextmanager
async def connect(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection from the pool, for those who wait in their order. What is not committed when it
    ends is rolled back.

    Raises `DatabaseUnavailableError` when Postgres can't be reached, or goes away, or when what is
    done meanwhile ends with a `TimeoutError`, which is the driver's.
    """
    async with _Turn(engine) as shared:
        connection = await _take(engine, shared)
        generation = shared.generation
        try:
            yield connection
        except (DBAPIError, TimeoutError, asyncpg.PostgresError, *LOST) as error:
            if _is_lost(error):
                shared.end(generation)
                await connection.invalidate()
            _check_available(engine, error)
            raise
        finally:
            await _give_back(connection)


class _Turn:
    """A turn at one of the engine's connections, which nobody has who came later."""

    __slots__ = ("_engine", "_shared")

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._shared = _shared.get(engine.sync_engine) or _shared.setdefault(
            engine.sync_engine, _Shared()
        )

    async def __aenter__(self) -> _Shared:
        turns = self._shared.turns
        try:
            async with asyncio.timeout(POOL_TIMEOUT_SECONDS if turns.locked() else None):
                await turns.acquire()
        except TimeoutError as error:
            raise _none_is_free(self._engine) from error
        self._count(1)
        return self._shared

    async def __aexit__(self, *_: object) -> None:
        self._count(-1)
        self._shared.turns.release()

    def _count(self, more: int) -> None:
        self._shared.in_use += more
        if self._engine.sync_engine in _counted:
            DATABASE_CONNECTIONS.set(self._shared.in_use)


async def _take(engine: AsyncEngine, shared: _Shared) -> AsyncConnection:
    """One that is kept, or one from the pool, which has one for each turn."""
    while True:
        generation = shared.generation
        connection = shared.kept.pop() if shared.kept else await _from_pool(engine)
        connection.info.setdefault(_GENERATION, generation)
        if shared.is_sound(connection):
            return connection
        # Nobody is there to say farewell to.
        driver_of(connection).terminate()
        await _give_up(connection)


async def _from_pool(engine: AsyncEngine) -> AsyncConnection:
    try:
        return await engine.connect()
    except PoolTimeoutError as error:
        raise _none_is_free(engine) from error
    except (OSError, asyncpg.PostgresError, DBAPIError, *LOST) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        kind = DatabaseUnavailableError
        if (getattr(cause, "sqlstate", None) or "").startswith(REFUSED):
            kind = DatabaseRefusedError
        raise kind(f"{_database(engine)} can't be reached: {cause}") from error


async def _give_back(connection: AsyncConnection) -> None:
    """Where it was lost, or its server is silent, there is nothing to roll back that would not end
    by itself, and SQLAlchemy has let go of it. What had happened before is what is told.
    """
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await connection.close()
    except (DBAPIError, TimeoutError, *LOST) as error:
        if not (isinstance(error, TimeoutError) or _is_lost(error)):
            raise


async def _give_up(connection: AsyncConnection) -> None:
    """Whatever state it is in, nobody else gets it."""
    await connection.invalidate()
    await connection.close()


def driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    """The driver's own connection."""
    assert connection.sync_connection
    driver = connection.sync_connection.connection.driver_connection
    assert isinstance(driver, asyncpg.Connection)
    return driver


def _check_available(engine: AsyncEngine, error: Exception) -> None:
    """Raises `DatabaseUnavailableError` from an error of a statement that was not at fault."""
    reason = _why_unavailable(error)
    if reason:
        raise DatabaseUnavailableError(f"{_database(engine)} {reason}") from error


def _none_is_free(engine: AsyncEngine) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(f"{_database(engine)} has no connection free")


def _database(engine: AsyncEngine) -> str:
    return f"the database at {engine.url.host or engine.url.query.get('host')}"


Source = AsyncEngine | AsyncConnection
"""Where a query is sent: to any connection of a pool, or to one in its transaction."""


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
    source: Source, statement: Statement, arguments: Mapping[str, object]
) -> list[asyncpg.Record]:
    """As `fetch`, past SQLAlchemy's pool and execution, which take longer than the driver and
    Postgres do for a row.
    """
    in_order = statement.in_order(arguments)
    if isinstance(source, AsyncConnection):
        rows: list[asyncpg.Record] = await driver_of(source).fetch(statement.text, *in_order)
        return rows
    for is_last in (False, True):
        try:
            return await _fetch_raw(source, statement.text, in_order)
        except DatabaseUnavailableError as error:
            if is_last or not _is_lost(error.__cause__):
                raise
    raise AssertionError


async def _fetch_raw(
    engine: AsyncEngine, statement: str, arguments: Sequence[object]
) -> list[asyncpg.Record]:
    async with _Turn(engine) as shared:
        connection = await _take(engine, shared)
        generation = shared.generation
        try:
            rows: list[asyncpg.Record] = await driver_of(connection).fetch(statement, *arguments)
        except BaseException as error:
            if isinstance(error, asyncpg.PostgresError) and not isinstance(error, LOST):
                # The server's word about the statement.
                await shared.keep(connection)
            else:
                await _give_up(connection)
            if isinstance(error, LOST):
                shared.end(generation)
            if isinstance(error, Exception):
                _check_available(engine, error)
            raise
        await shared.keep(connection)
        return rows


async def fetch(
    source: Source, query: Executable, arguments: Mapping[str, object] | None = None
) -> Sequence[Row[*tuple[Any, ...]]]:
    """The rows of a query that only reads.

    Asked once more when its connection turns out to be a dead one: after a restart of the server
    the pool is full of them.
    """
    if isinstance(source, AsyncConnection):
        return (await source.execute(query, arguments)).all()
    for is_last in (False, True):
        try:
            async with connect(source) as connection:
                return (await connection.execute(query, arguments)).all()
        except DatabaseUnavailableError as error:
            if is_last or not _is_lost(error.__cause__):
                raise
    raise AssertionError


async def wait_for_database(engine: AsyncEngine, seconds: float) -> None:
    """Wait until the database can be reached. Raises `DatabaseUnavailableError` when it can't be
    after so long, or refuses.
    """
    async for attempt in AsyncRetrying(
        stop=stop_after_delay(seconds),
        wait=wait_fixed(WAIT_PAUSE_SECONDS),
        retry=retry_if_exception(lambda error: isinstance(error, OperatorError) and error.may_pass),
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
