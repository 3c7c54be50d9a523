"""Postgres advisory locks, which let processes that share a database exclude each other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.connection import CLOSE_TIMEOUT_SECONDS
from app.db.driver_errors import LOST
from app.db.engine import connect, driver_of
from app.db.statements import Queryable, Statement, fetch
from app.errors import LockLostError


class LockKey(IntEnum):
    """Keys of the locks. They start at 2**40, which other applications are unlikely to use."""

    MIGRATE = 2**40 + 1
    PUBLISH = 2**40 + 2
    INGEST = 2**40 + 3


_HOLDS = text(
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    # objsubid is 1 for a key of 64 bits, and 2 for two keys of 32 bits.
    "AND (CAST(classid AS bigint) << 32) + CAST(objid AS bigint) = :key AND objsubid = 1 "
    "AND (pid = :process OR CAST(:process AS integer) IS NULL))"
)


async def lock_for_transaction(connection: AsyncConnection, key: LockKey) -> None:
    """Wait for the lock and hold it until the current transaction ends."""
    await connection.execute(select(func.pg_advisory_xact_lock(int(key))))


async def is_held(source: Queryable, key: LockKey) -> bool:
    """Return True if a process holds the lock."""
    ((held,),) = await fetch(source, Statement(_HOLDS), key=int(key), process=None)
    return bool(held)


@dataclass
class HeldLock:
    """A lock that this process holds until its connection ends."""

    key: LockKey
    process: int
    connection_ended: bool = False

    def check(self) -> None:
        """Raise `LockLostError` if the connection has ended, as far as the driver has noticed."""
        if self.connection_ended:
            raise LockLostError

    async def check_on_server(self, connection: AsyncConnection) -> None:
        """Raise `LockLostError` unless the server confirms that this process holds the lock.

        The caller passes the connection that is about to commit, so that nothing is committed after
        the lock was lost.
        """
        self.check()
        held = await connection.execute(_HOLDS, {"key": int(self.key), "process": self.process})
        if not held.scalar_one():
            raise LockLostError


@asynccontextmanager
async def try_lock(engine: AsyncEngine, key: LockKey) -> AsyncIterator[HeldLock | None]:
    """Hold the lock, with a connection of its own. Yield None if another process holds it.

    Postgres also releases the lock when that connection ends.
    """
    async with connect(engine) as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        query = select(func.pg_try_advisory_lock(int(key)), func.pg_backend_pid())
        taken, process = (await connection.execute(query)).one()
        if not taken:
            yield None
            return
        lock = HeldLock(key, process)
        driver = driver_of(connection)

        def ended(_: object) -> None:
            lock.connection_ended = True

        driver.add_termination_listener(ended)
        try:
            yield lock
        finally:
            driver.remove_termination_listener(ended)
            # If the connection has ended, for example after a cancellation, the lock is free
            # already.
            if not lock.connection_ended and not connection.invalidated:
                await _unlock(connection, key)


async def _unlock(connection: AsyncConnection, key: LockKey) -> None:
    """Release the lock, or end its connection if the server does not answer in time.

    The work under the lock is complete, so no error is raised.
    """
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await connection.execute(select(func.pg_advisory_unlock(int(key))))
    except (DBAPIError, TimeoutError, *LOST):
        await connection.invalidate()
