"""Waiting for what happens beside a test."""

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from time import monotonic, sleep

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect
from app.domain.downloads import Publication
from app.main import Service

PATIENCE_SECONDS = 180.0
"""How long a test waits for something that takes a moment on an idle machine. A busy machine takes
a hundred times as long, and only a failing test waits to the end.
"""

POLL_SECONDS = 0.01


async def until(condition: Callable[[], object]) -> float:
    """Wait until the condition holds, and return how many seconds that took."""
    began = monotonic()
    while monotonic() - began < PATIENCE_SECONDS:
        holds = condition()
        if await holds if isawaitable(holds) else holds:
            return monotonic() - began
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"{condition} does not hold after {PATIENCE_SECONDS:g} s")


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds, in a test without an event loop."""
    began = monotonic()
    while not condition():
        if monotonic() - began > PATIENCE_SECONDS:
            raise AssertionError(f"{condition} does not hold after {PATIENCE_SECONDS:g} s")
        sleep(POLL_SECONDS)


async def until_blocked(engine: AsyncEngine, sessions: int = 1) -> None:
    """Wait until so many sessions of the database wait for a lock."""
    query = text(
        "SELECT count(DISTINCT pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock'"
    )

    async def are_blocked() -> bool:
        async with connect(engine) as connection:
            return bool(await connection.scalar(query) == sessions)

    await until(are_blocked)


async def until_known(app: Service, version: str | None = None) -> str:
    """Wait until the service knows of a publish other than this version; return its version."""
    publication_watch = app.dispatcher.publication_watch
    await until(
        lambda: publication_watch.publication and publication_watch.publication.version != version
    )
    return published(app).version


def published(app: Service) -> Publication:
    """Return the publication that the service knows of."""
    publication = app.dispatcher.publication_watch.publication
    assert publication
    return publication
