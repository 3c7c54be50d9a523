"""What becomes of a lock whose server says nothing; how jobs share it, tests/ingest shows."""

import asyncio
import os
from contextlib import nullcontext
from functools import partial
from signal import SIGCONT, SIGSTOP

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.advisory_lock import HeldLock, LockKey, is_held, try_lock
from app.db.engine import connect, job_engine
from app.errors import LockLostError
from tests.waiting import PATIENCE_SECONDS, until


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
async def test_a_lock_that_can_not_be_released_ends_with_its_connection(
    database_url: str, engine: AsyncEngine, error: type[Exception] | None
) -> None:
    """The work that was done under the lock stays committed."""
    async with job_engine(database_url) as own:

        async def work() -> None:
            async with try_lock(own, LockKey.INGEST) as lock:
                assert lock
                silent.append(await _process_of(engine, LockKey.INGEST))
                os.kill(silent[0], SIGSTOP)
                if error:
                    raise error

        silent: list[int] = []
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(error) if error else nullcontext():
                    await work()
        finally:
            os.kill(silent[0], SIGCONT)
        await until(partial(_is_free, engine, LockKey.INGEST))


async def test_a_lock_by_two_keys_is_another_one(engine: AsyncEngine) -> None:
    """Another application may use the same database, and the same numbers."""
    keys = {"high": int(LockKey.INGEST) >> 32, "low": int(LockKey.INGEST) & 0xFFFFFFFF}
    async with connect(engine) as connection:
        by_two_keys = text("SELECT pg_advisory_lock(:high, :low), pg_backend_pid()")
        _, process = (await connection.execute(by_two_keys, keys)).one()
        assert not await is_held(engine, LockKey.INGEST)
        with pytest.raises(LockLostError):
            await HeldLock(LockKey.INGEST, process).check_on_server(connection)
        async with try_lock(engine, LockKey.INGEST) as lock:
            assert lock
            assert await is_held(engine, LockKey.INGEST)


async def _process_of(engine: AsyncEngine, key: LockKey) -> int:
    holder = text(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = :low AND granted"
    )
    async with connect(engine) as connection:
        return int(await connection.scalar(holder, {"low": int(key) & 0xFFFFFFFF}))


async def _is_free(engine: AsyncEngine, key: LockKey) -> bool:
    return not await is_held(engine, key)
