"""Postgres advisory locks, by which processes that share a database exclude each other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection


class LockKey(IntEnum):
    """Two to the 40th and up, out of the way of what else may share the database."""

    MIGRATE = 2**40 + 1
    PUBLISH = 2**40 + 2
    DAILY_JOB = 2**40 + 3


async def lock_for_transaction(connection: AsyncConnection, key: LockKey) -> None:
    """Wait for the lock and hold it until the current transaction ends."""
    await connection.execute(select(func.pg_advisory_xact_lock(int(key))))


@asynccontextmanager
async def try_lock(connection: AsyncConnection, key: LockKey) -> AsyncIterator[bool]:
    """Hold the lock meanwhile, unless somebody else does: True when it is ours.

    It belongs to the connection, which is in autocommit and does nothing else that takes long:
    Postgres releases it when the connection ends, however that comes about.
    """
    taken = await connection.execute(select(func.pg_try_advisory_lock(int(key))))
    if not taken.scalar_one():
        yield False
        return
    try:
        yield True
    finally:
        if not connection.invalidated:  # As after a cancellation: the lock went with it.
            await connection.execute(select(func.pg_advisory_unlock(int(key))))
