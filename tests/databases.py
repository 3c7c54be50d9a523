"""Databases of the tests: copies of a migrated template that are emptied and used again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.engine import connect, create_engine

# The schema, its revision and the settings of a database, without the monthly partitions that
# publishes create.
FINGERPRINT = """
SELECT md5(string_agg(fact, E'\\n' ORDER BY fact)) FROM (
    SELECT format('%s %s %s %s', attrelid::regclass, attname, atttypid, attnotnull)
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT relispartition
    UNION ALL
    SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(pg_constraint.oid))
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE connamespace = 'public'::regnamespace AND NOT relispartition
    UNION ALL
    SELECT format('%s %s', tgrelid::regclass, tgname) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT version_num FROM alembic_version
    UNION ALL
    SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT setconfig::text FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
    WHERE datname = current_database()
) AS facts (fact)
"""

# Truncating a table without rows would take as long as one with rows, because it creates new files.
EMPTY = """
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT oid::regclass FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relispartition
    LOOP
        EXECUTE 'DROP TABLE ' || name;
    END LOOP;
    SELECT string_agg(oid::regclass::text, ', ') INTO name FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        AND relname <> 'alembic_version' AND pg_relation_size(oid) > 0;
    IF name IS NOT NULL THEN
        EXECUTE 'TRUNCATE ' || name || ' CASCADE';
    END IF;
    FOR name IN SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences
        WHERE last_value IS NOT NULL
    LOOP
        EXECUTE 'ALTER SEQUENCE ' || name || ' RESTART';
    END LOOP;
END $$
"""

END_OTHER_SESSIONS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def url_of(server_url: str, database: str) -> str:
    return make_url(server_url).set(database=database).render_as_string(hide_password=False)


@asynccontextmanager
async def administration(server_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection that creates and drops databases."""
    engine = create_engine(server_url)
    async with connect(engine) as connection:
        yield await connection.execution_options(isolation_level="AUTOCOMMIT")
    await engine.dispose()


class Databases:
    """Copies of one template. Emptying a copy takes a tenth of the time of creating one."""

    _numbers = count(1)

    def __init__(self, server_url: str, template: str) -> None:
        self._server_url = server_url
        self._template = template
        self._free: list[str] = []
        self._fingerprint: str | None = None

    @asynccontextmanager
    async def empty(self) -> AsyncIterator[str]:
        """The URL of a migrated database without data."""
        url = self._free.pop() if self._free else await self._create()
        try:
            yield url
        finally:
            if await self._is_emptied(url):
                self._free.append(url)

    async def _create(self) -> str:
        name = f"{self._template}_{next(self._numbers)}"
        async with administration(self._server_url) as connection:
            await connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {self._template}"))
        url = url_of(self._server_url, name)
        if self._fingerprint is None:
            connection = await asyncpg.connect(url)
            self._fingerprint = await connection.fetchval(FINGERPRINT)
            await connection.close()
        return url

    async def _is_emptied(self, url: str) -> bool:
        """Empty a database. Return False if the test has changed its schema or settings."""
        try:
            connection = await asyncpg.connect(url)
        except asyncpg.InvalidCatalogNameError:
            return False
        try:
            await connection.execute(END_OTHER_SESSIONS)
            if await connection.fetchval(FINGERPRINT) != self._fingerprint:
                return False
            await connection.execute(EMPTY)
        except asyncpg.UndefinedTableError:
            return False
        finally:
            await connection.close()
        return True
