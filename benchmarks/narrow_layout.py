"""The conventional layout of the same data, for comparison: a narrow table per breakdown, with text
keys and one row per date, package and category.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from time import perf_counter

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.engine import connect
from app.domain.downloads import PackageDownloads

STATEMENT_ROWS = 100
"""Number of rows per INSERT statement, which is the default of psycopg2's `execute_values`."""

# Queries of each table's categories and downloads for a row of `daily_downloads`.
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
    """Size of the tables and their primary keys."""


async def build_narrow_layout(engine: AsyncEngine) -> NarrowLayout:
    """Create the layout in its own schema, from the tables in the same database."""
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
    await _create_series(connection, table)
    # Rows are inserted in the order of the key, as when days arrive one by one. This keeps the
    # index as small as possible.
    inserted = await connection.execute(
        text(
            f"INSERT INTO narrow.{table} SELECT date, name, category, downloads "
            f"FROM daily_downloads JOIN packages ON packages.id = package_id, LATERAL {categories} "
            "AS categories (category, downloads) ORDER BY date, name, category"
        )
    )
    return inserted.rowcount


async def _create_series(connection: AsyncConnection, table: str) -> None:
    await connection.execute(
        text(
            f"CREATE TABLE narrow.{table} (date date, package text, category text, "
            "downloads bigint, PRIMARY KEY (date, package, category))"
        )
    )


async def insert_narrow_rows(
    engine: AsyncEngine, day: date, packages: Sequence[PackageDownloads]
) -> float:
    """Insert the packages' rows of a day into empty tables, in statements that contain the values,
    and return the rows per second.
    """
    async with connect(engine) as connection:
        await connection.execute(text("CREATE SCHEMA narrow"))
        for table in _SERIES:
            await _create_series(connection, table)
        await connection.commit()
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, asyncpg.Connection)
        inserted = 0
        began = perf_counter()
        async with driver.transaction():
            for table, values in _values(day, packages).items():
                for start in range(0, len(values), STATEMENT_ROWS):
                    written = ", ".join(values[start : start + STATEMENT_ROWS])
                    await driver.execute(f"INSERT INTO narrow.{table} VALUES {written}")
                inserted += len(values)
        return inserted / (perf_counter() - began)


def _values(day: date, packages: Sequence[PackageDownloads]) -> Mapping[str, Sequence[str]]:
    """Return the rows as SQL text, by table."""
    values: dict[str, list[str]] = {table: [] for table in _SERIES}
    for package in packages:
        minors = package.breakdowns["python_minor"]
        majors = Counter[str]()
        for version, downloads in minors.items():
            majors[version.partition(".")[0]] += downloads
        totals = {
            "with_mirrors": package.with_mirrors,
            "without_mirrors": package.without_mirrors,
        }
        for table, counts in (
            ("overall", totals),
            ("python_major", majors),
            ("python_minor", minors),
            ("system", package.breakdowns["system"]),
        ):
            values[table] += (
                f"('{day}', '{package.package}', '{category}', {downloads})"
                for category, downloads in counts.items()
            )
    return values
