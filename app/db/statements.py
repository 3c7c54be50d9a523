"""Reads that SQLAlchemy compiles once, and that asyncpg runs."""

from collections.abc import Mapping
from typing import TypeAlias

import asyncpg
from sqlalchemy import ClauseElement
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.compiler import SQLCompiler

from app.db.connection import DIALECT
from app.db.engine import connect, driver_of
from app.db.pool import ReadPool

Source: TypeAlias = ReadPool | asyncpg.Connection | AsyncEngine | AsyncConnection
"""A pool, engine or connection that can run a query."""


class Statement:
    """A query that is compiled once."""

    def __init__(self, query: ClauseElement) -> None:
        compiled = query.compile(dialect=DIALECT)
        assert isinstance(compiled, SQLCompiler)
        self.text = str(compiled)
        self._defaults = compiled.params
        self._order = compiled.positiontup or ()

    def in_order(self, arguments: Mapping[str, object]) -> list[object]:
        """Return the arguments, or defaults for missing ones, in the order of the placeholders."""
        given = self._defaults | arguments
        return [given[name] for name in self._order]


async def fetch(source: Source, statement: Statement, **arguments: object) -> list[asyncpg.Record]:
    """Return the rows of a query. Raises `DatabaseUnavailableError`."""
    in_order = statement.in_order(arguments)
    if isinstance(source, ReadPool):
        return await source.fetch(statement.text, in_order)
    if isinstance(source, AsyncEngine):
        async with connect(source) as connection:
            return await fetch(driver_of(connection), statement, **arguments)
    driver = driver_of(source) if isinstance(source, AsyncConnection) else source
    rows: list[asyncpg.Record] = await driver.fetch(statement.text, *in_order)
    return rows
