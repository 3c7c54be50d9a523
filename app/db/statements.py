"""Queries that SQLAlchemy compiles once and asyncpg runs."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeAlias

import asyncpg
from sqlalchemy import ClauseElement, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.compiler import SQLCompiler

from app.db.connection import DIALECT
from app.db.engine import connect, driver_of
from app.db.pool import ReadPool
from app.db.sql import load_sql
from app.domain.downloads import Publication
from app.errors import OtherPublicationError

Queryable: TypeAlias = ReadPool | asyncpg.Connection | AsyncEngine | AsyncConnection
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
        """Return the values of the placeholders, in order. Missing arguments have defaults."""
        given = self._defaults | arguments
        return [given[name] for name in self._order]


async def fetch(
    source: Queryable, statement: Statement, **arguments: object
) -> list[asyncpg.Record]:
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


def published_statement(name: str, *, order: str = "", **parts: object) -> Statement:
    """Return the statement of a SQL file for `PublishedReads`, with rows in the given order."""
    query = load_sql(name, **parts)
    return Statement(
        text(load_sql("with_publish_time", query=query, order=order and f"ORDER BY {order}"))
    )


class PublishedReads:
    """Base of the repositories of published data.

    Each query also reads the time of the publish that it sees, and raises `OtherPublicationError`
    if that is not the expected one.
    """

    def __init__(self, source: Queryable) -> None:
        self.source = source
        self.expected_publish: datetime | None = None
        """Time of the publish that queries have to see, or None to accept any publish."""

    def with_source(self, source: Queryable, expected: Publication | None) -> Self:
        """Return a copy of this repository for another source. Its queries raise
        `OtherPublicationError` if they see another publication than the expected one.
        """
        # Copy by hand, because `copy.copy` takes as long as a response from the response cache.
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.source = source
        other.expected_publish = expected.published_at if expected else None
        return other

    async def _read(self, statement: Statement, **arguments: object) -> Sequence[tuple[Any, ...]]:
        rows = await fetch(self.source, statement, **arguments)
        if self.expected_publish and rows[0][0] != self.expected_publish:
            raise OtherPublicationError
        return [row[1:] for row in rows if row[1] is not None]
