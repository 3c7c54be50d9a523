"""Databases that are copies of another, and what is in them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect, create_engine
from tests.contents import Everything, everything

_numbers = count(1)


def url_of(server_url: str, database: str) -> str:
    return make_url(server_url).set(database=database).render_as_string(hide_password=False)


def database_of(url: str) -> str:
    return str(make_url(url).database)


@asynccontextmanager
async def copied(server_url: str, template: str) -> AsyncIterator[tuple[str, AsyncEngine]]:
    """A new database's URL, and an engine of which one connection is used at a time."""
    name = f"faults_{next(_numbers)}"
    admin = create_engine(server_url)
    try:
        async with connect(admin) as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        engine = create_engine(url_of(server_url, name))
        try:
            yield url_of(server_url, name), engine
        finally:
            await engine.dispose()
            async with connect(admin) as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        await admin.dispose()


class State(NamedTuple):
    """All that there is in a database."""

    contents: Everything
    tables: list[str]
    """Names of tables and indexes."""

    temporary_tables: list[str]


async def state(engine: AsyncEngine) -> State:
    contents = await everything(engine)
    query = (
        "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE nspname LIKE :schema AND nspname NOT LIKE 'pg_toast%' ORDER BY relname"
    )
    async with engine.connect() as connection:
        found = [
            list(await connection.scalars(text(query), {"schema": schema}))
            for schema in ("public", "pg_temp%")
        ]
    return State(contents, *found)


async def is_alone(engine: AsyncEngine) -> bool:
    """Return True if no other client is connected, and no query of a former one still runs."""
    query = (
        "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    async with engine.connect() as connection:
        return bool(await connection.scalar(text(query)))
