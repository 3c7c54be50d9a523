"""Runs the work of commands on their database, after starting, migrating or checking it."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.embedded import STOP_TIMEOUT_SECONDS, embedded_postgres
from app.db.engine import check_session, job_engine, wait_for_database
from app.db.migrations import check_migrated, migrate
from app.interpreter import collect_garbage_less_often
from app.settings import Settings

Result = TypeVar("Result")

Work = Callable[[AsyncEngine], Coroutine[object, object, Result]]


@contextmanager
def database_url(
    settings: Settings,
    *,
    create: bool = True,
    stop_seconds: Callable[[], float] = lambda: STOP_TIMEOUT_SECONDS,
) -> Iterator[str]:
    """Yield the URL of the database that the settings name, or else of the embedded one, which is
    stopped when the context ends. `embedded_postgres` describes the other arguments.
    """
    if settings.database_url:
        yield settings.database_url.get_secret_value()
    else:
        with embedded_postgres(settings.data_dir, create=create, stop_seconds=stop_seconds) as url:
            yield url


def migrate_and_run(url: str, work: Work[Result], *, wait_seconds: float = 0.0) -> Result:
    """Wait for the database, migrate it, and run work on it."""

    async def migrate_and_work() -> Result:
        async with job_engine(url) as engine:
            await wait_for_database(engine, wait_seconds)
            await check_session(engine)
            await migrate(engine)
            return await work(engine)

    return _run(migrate_and_work)


def run_read_only(settings: Settings, work: Work[Result]) -> Result:
    """Run work that only reads. Nothing is created or migrated, and Postgres refuses to write.

    Raises `OperatorError` if the database is empty or has another schema than this code.
    """

    async def check_and_work() -> Result:
        async with job_engine(url, read_only=True) as engine:
            await check_migrated(engine, accept_later=False)
            return await work(engine)

    with database_url(settings, create=False) as url:
        return _run(check_and_work)


def _run(work: Callable[[], Coroutine[object, object, Result]]) -> Result:
    """Run the work until it ends or SIGTERM cancels it."""

    async def run_until_stopped() -> Result:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task
        # Cancel the task: an exception from a signal handler could be raised in code that ignores
        # it.
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        collect_garbage_less_often()
        return await work()

    try:
        return asyncio.run(run_until_stopped())
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, exit_on_signal)


def exit_on_signal(number: int, _: FrameType | None) -> None:
    """Exit by an exception, so that contexts stop what they have started."""
    sys.exit(128 + number)
