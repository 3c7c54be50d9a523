"""The database of a command: how it is found, opened and migrated."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.embedded import embedded_postgres
from app.db.engine import job_engine, wait_for_database
from app.db.migrations import migrate
from app.interpreter import look_for_garbage_less_often
from app.settings import Settings

Result = TypeVar("Result")


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """The database that the settings name, or an embedded one for as long as this lasts."""
    if settings.database_url:
        yield settings.database_url.get_secret_value()
    else:
        with embedded_postgres(settings.data_dir) as url:
            yield url


def run(
    url: str,
    work: Callable[[AsyncEngine], Coroutine[object, object, Result]],
    *,
    wait_seconds: float = 0.0,
) -> Result:
    """Run the work on a migrated database, once that can be reached."""
    signals: list[int] = []

    async def opened() -> Result:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task

        def stop() -> None:
            signals.append(signal.SIGTERM)
            task.cancel()

        # An exception out of a signal's handler may come up where nobody passes it on.
        loop.add_signal_handler(signal.SIGTERM, stop)
        look_for_garbage_less_often()
        async with job_engine(url) as engine:
            await wait_for_database(engine, wait_seconds)
            await migrate(engine)
            return await work(engine)

    try:
        return asyncio.run(opened())
    except asyncio.CancelledError:
        sys.exit(128 + signals[0])
    finally:
        signal.signal(signal.SIGTERM, exit_on_signal)


def exit_on_signal(number: int, _: FrameType | None) -> None:
    # Unlike the default, this lets everything that was started be stopped.
    sys.exit(128 + number)
