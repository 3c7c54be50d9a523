"""The conventional layout of the same data, for the size of it: a narrow table a breakdown, one row
a date, package and category, with text keys.
"""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.engine import connect

# What each table's rows are, of the rows `day` of a package and day.
_SERIES = {
    "overall": "(VALUES ('with_mirrors', with_mirrors), ('without_mirrors', without_mirrors))",
    "python_major": "(SELECT split_part(key, '.', 1), sum(CAST(value AS bigint)) "
    "FROM json_each_text(python_minor) GROUP BY 1)",
    "python_minor": "(SELECT key, CAST(value AS bigint) FROM json_each_text(python_minor))",
    "system": "(SELECT key, CAST(value AS bigint) FROM json_each_text(system))",
}


@dataclass(frozen=True, slots=True)
class NarrowLayout:
    rows: int
    size_bytes: int
    """Of the tables and their primary keys."""


async def build_narrow_layout(engine: AsyncEngine) -> NarrowLayout:
    """In a schema of its own beside the tables that it is made of."""
    async with connect(engine) as connection:
        await connection.execute(text("CREATE SCHEMA narrow"))
        rows = await _build_recent(connection)
        for table, categories in _SERIES.items():
            rows += await _build_series(connection, table, categories)
        await connection.commit()
        size_bytes = await connection.scalar(
            text(
                "SELECT sum(pg_total_relation_size(pg_class.oid)) FROM pg_class "
                "WHERE relnamespace = CAST('narrow' AS regnamespace) AND relkind = 'r'"
            )
        )
    assert size_bytes
    return NarrowLayout(rows, int(size_bytes))


async def _build_recent(connection: AsyncConnection) -> int:
    await connection.execute(
        text(
            "CREATE TABLE narrow.recent (package text, category text, downloads bigint, "
            "PRIMARY KEY (package, category))"
        )
    )
    inserted = await connection.execute(
        text(
            "INSERT INTO narrow.recent SELECT name, category, downloads FROM packages, LATERAL "
            "(VALUES ('day', last_day), ('week', last_week), ('month', last_month)) "
            "AS sums (category, downloads)"
        )
    )
    return inserted.rowcount


async def _build_series(connection: AsyncConnection, table: str, categories: str) -> int:
    await connection.execute(
        text(
            f"CREATE TABLE narrow.{table} (date date, package text, category text, "
            "downloads bigint, PRIMARY KEY (date, package, category))"
        )
    )
    # In the order of the key, as days come: its pages fill from end to end, and it is as small as
    # it can be.
    inserted = await connection.execute(
        text(
            f"INSERT INTO narrow.{table} SELECT date, name, category, downloads "
            f"FROM daily_downloads JOIN packages ON packages.id = package_id, LATERAL {categories} "
            "AS categories (category, downloads) ORDER BY date, name, category"
        )
    )
    return inserted.rowcount
