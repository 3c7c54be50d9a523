"""Reads several things as they were at one moment."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.engine import connect


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection whose one transaction reads only, and sees one state of everything."""
    async with connect(engine) as connection:
        await connection.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        # Keeps months from being dropped, and comes before any query: a drop is seen at once also
        # where what a transaction sees is settled, and a day would be recorded and its rows gone.
        await connection.execute(text("LOCK TABLE ONLY daily_downloads IN ACCESS SHARE MODE"))
        yield connection
