"""The service in a process of its own, started and stopped while the test goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from tests.processes import SERVE, served


@asynccontextmanager
async def serving(
    folder: Path, log: Path, before: tuple[str, ...], **environment: str
) -> AsyncIterator[str]:
    """Its address. `before` goes before the command."""
    with ExitStack() as stack:
        started = served(folder, log, [*before, *SERVE] if before else (), **environment)
        address, _ = await asyncio.to_thread(stack.enter_context, started)
        try:
            yield address
        finally:
            await asyncio.to_thread(stack.close)
