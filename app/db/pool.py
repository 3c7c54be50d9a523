"""The pool of connections for requests. It uses asyncpg's, which is faster than SQLAlchemy's."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import asyncpg

from app.addresses import DatabaseAddress
from app.db.connection import CLOSE_TIMEOUT_SECONDS, LOCK_MONTHS, open_connection
from app.db.driver_errors import connecting, is_lost, no_connection_free, querying
from app.errors import DatabaseUnavailableError, RequestError
from app.metrics import DATABASE_CONNECTIONS, DATABASE_CONNECTIONS_LIMIT

POOL_SIZE = 10
"""Maximum number of connections per process. A query occupies one for about a millisecond."""

CONNECTION_WAIT_SECONDS = 5
"""How long a read waits for a free connection."""

QUERY_TIMEOUT_SECONDS = 10
"""Timeout of a read, which usually takes a millisecond."""

SESSION = {"plan_cache_mode": "force_generic_plan"}
"""Session parameters. Statements are planned only once, because planning takes longer than running
them, and one plan fits all arguments.
"""

_HEALTHY = (RequestError, asyncpg.PostgresError)
"""Errors after which a connection can be used again, unless `is_lost` returns True for them."""

_UNUSABLE = (
    # The database was emptied or is being restored, or a permission was revoked.
    asyncpg.SyntaxOrAccessError,
    # The database's files are damaged or can't be read.
    asyncpg.InternalServerError,
    asyncpg.PostgresSystemError,
)
"""Errors of an unusable database. The statements can't be the cause, because they are constants of
the service.
"""


class _Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types.
    """A connection that is not reset between two reads, because reads do not change the session."""

    def get_reset_query(self) -> str:
        return ""


class ReadPool:
    """A pool of connections for reads. A read is one statement, or a few of them in a snapshot."""

    def __init__(
        self, database_url: str, *, read_timeout_seconds: float = QUERY_TIMEOUT_SECONDS
    ) -> None:
        self._address = DatabaseAddress.parse(database_url)
        self._database = str(self._address)
        self._read_timeout_seconds = read_timeout_seconds
        # In asyncpg's own queue new tasks overtake waiting ones, which may then wait for a second.
        self._slots = asyncio.Semaphore(POOL_SIZE)
        self._generation = 0
        """Number of times that all connections were expired."""

    async def open(self) -> None:
        """Open the pool. Its connections are opened when they are first needed."""
        self._pool = await asyncpg.create_pool(
            self._address,
            connect=partial(
                open_connection,
                statement_timeout_seconds=self._read_timeout_seconds,
                session=SESSION,
            ),
            connection_class=_Connection,
            min_size=0,
            max_size=POOL_SIZE,
            max_inactive_connection_lifetime=0,
        )
        DATABASE_CONNECTIONS_LIMIT.set(POOL_SIZE)

    async def fetch(self, statement: str, arguments: Sequence[object]) -> list[asyncpg.Record]:
        """Return the rows of a query.

        If its connection is dead, the query is sent again on a new one. After a restart of the
        server, all connections of the pool are dead.
        """
        try:
            return await self._fetch(statement, arguments)
        except DatabaseUnavailableError as error:
            if not is_lost(error.__cause__):
                raise
        return await self._fetch(statement, arguments)

    async def _fetch(self, statement: str, arguments: Sequence[object]) -> list[asyncpg.Record]:
        async with self._connection() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
            return rows

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a connection with a transaction that sees one state of the whole database."""
        async with self._connection() as connection:
            await connection.execute(
                f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {LOCK_MONTHS}"
            )
            try:
                yield connection
            except _HEALTHY:
                await connection.execute("ROLLBACK")
                raise
            await connection.execute("ROLLBACK")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a connection. Tasks that have to wait get one in the order of their arrival.

        Raises `DatabaseUnavailableError`.
        """
        await self._wait_for_slot()
        DATABASE_CONNECTIONS.inc()
        try:
            generation = self._generation
            with connecting(self._database):
                connection = await self._pool.acquire()
            try:
                with querying(self._database):
                    try:
                        yield connection
                    except BaseException as error:
                        await self._close_unless_usable(connection, generation, error)
                        raise
            except _UNUSABLE as error:
                reason = " ".join(str(error).split())
                raise DatabaseUnavailableError(
                    f"{self._database} can't be used: {reason}"
                ) from error
            finally:
                await self._pool.release(connection)
        finally:
            DATABASE_CONNECTIONS.dec()
            self._slots.release()

    async def _close_unless_usable(
        self, connection: asyncpg.Connection, generation: int, error: BaseException
    ) -> None:
        """Close a connection after an error, unless the error leaves the connection usable."""
        if is_lost(error):
            if generation == self._generation:
                # Usually the server was restarted, so expire all connections. The driver may not
                # have noticed yet that they are closed.
                self._generation += 1
                await self._pool.expire_connections()
        elif isinstance(error, _HEALTHY):
            return
        # A connection that the server has closed is no longer in the pool.
        with suppress(asyncpg.InterfaceError):
            connection.terminate()

    async def _wait_for_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(CONNECTION_WAIT_SECONDS):
                await self._slots.acquire()
        except TimeoutError as error:
            raise no_connection_free(self._database) from error

    async def close(self) -> None:
        """Close each connection when its read has ended, or after `CLOSE_TIMEOUT_SECONDS`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._pool.close()
