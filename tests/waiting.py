"""Waiting for what happens beside a test."""

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from time import monotonic

from fastapi import FastAPI

SECONDS = 20.0


async def until(condition: Callable[[], object]) -> float:
    """Wait until it holds, and tell how many seconds that took; fails when it never does."""
    began = monotonic()
    while monotonic() - began < SECONDS:
        holds = condition()
        if await holds if isawaitable(holds) else holds:
            return monotonic() - began
        await asyncio.sleep(0.01)
    raise AssertionError(f"{condition} does not hold after {SECONDS:g} s")


async def until_known(app: FastAPI, version: str | None = None) -> str:
    """Wait until the service knows of a publish other than this version; return its version."""
    freshness = app.state.freshness
    await until(lambda: freshness.publication and freshness.publication.version != version)
    known: str = freshness.publication.version
    return known
