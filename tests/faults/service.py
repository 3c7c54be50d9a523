"""The service in a process of its own, started and stopped while the test goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import psutil

from tests.processes import served


@asynccontextmanager
async def serving(
    folder: Path, log: Path, **environment: str
) -> AsyncIterator[tuple[str, psutil.Popen]]:
    with ExitStack() as stack:
        started = served(folder, log, (), **environment)
        entered = await asyncio.to_thread(stack.enter_context, started)
        try:
            yield entered
        finally:
            await asyncio.to_thread(stack.close)
