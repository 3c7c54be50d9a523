"""Figures of each package (downloads in the latest periods, and rank), and the rankings by them.

One statement rewrites all figures, so that each row is rewritten only once: a page has room for one
new version of each row. Figures are not indexed, because a publish rewrites nearly all of them, and
a row with a changed index key can't be rewritten in place. So rankings are tables of their own.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta

from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.sql import load_sql
from app.db.tables import top_packages, trending_packages
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import (
    ALL_MONTHS,
    MONTH_DAYS,
    POPULAR_PACKAGES,
    RANKED_PACKAGES,
    TREND_DAYS,
    TREND_FLOOR_DOWNLOADS,
    WEEK_DAYS,
)

_SUM = load_sql("update_figures", figures=load_sql("sum_figures"))
_MOVE = load_sql("update_figures", figures=load_sql("move_figures"))

TOP_PACKAGES = load_sql("top_packages")
TOP_OF_MONTHS = load_sql("top_of_months", all_months=ALL_MONTHS)
TRENDING_PACKAGES = load_sql("trending_packages")

_SLOW_JOINS = ("enable_nestloop", "enable_hashjoin")


def figures_arguments(latest: date) -> dict[str, object]:
    """Return the arguments of this module's statements, for periods that end with `latest`. `week`,
    `trend` and `month` are the last days before the periods of these names.
    """
    return {
        "all_packages": ALL_PACKAGES,
        "popular": POPULAR_PACKAGES,
        "ranked": RANKED_PACKAGES,
        "trend_days": TREND_DAYS,
        "trend_floor": TREND_FLOOR_DOWNLOADS,
        "latest": latest,
        "week": latest - timedelta(days=WEEK_DAYS),
        "trend": latest - timedelta(days=TREND_DAYS),
        "month": latest - timedelta(days=MONTH_DAYS),
    }


async def update_figures(connection: AsyncConnection, latest: date, *, is_next: bool) -> None:
    """Update the figures of all packages. If `is_next`, the stored periods ended a day before
    `latest` and are moved by a day. Otherwise all days of the periods are summed.
    """
    statement = _MOVE if is_next else _SUM
    async with merge_joins(connection):
        await connection.execute(text(statement), figures_arguments(latest))


@asynccontextmanager
async def merge_joins(connection: AsyncConnection) -> AsyncIterator[None]:
    """Let Postgres use only merge joins.

    It has no statistics about the rows of a new day or month yet. It might expect one row and
    choose a nested loop, which would take hours. Rows are nearly in the order of ids, so a merge
    join takes two thirds of the time of a hash join.
    """
    for joins in _SLOW_JOINS:
        await connection.execute(text(f"SET LOCAL {joins} = off"))
    yield
    for joins in _SLOW_JOINS:
        await connection.execute(text(f"SET LOCAL {joins} = DEFAULT"))


async def delete_packages(connection: AsyncConnection) -> int:
    """Delete the packages without a row in any day or month, and return their number."""
    return (await connection.execute(text(load_sql("delete_packages")))).rowcount


async def delete_rankings(connection: AsyncConnection) -> None:
    for table in (top_packages, trending_packages):
        await connection.execute(delete(table))


async def rewrite_top_of_months(connection: AsyncConnection) -> None:
    """Rewrite the ranking by the downloads of all stored months."""
    await connection.execute(delete(top_packages).where(top_packages.c.period == ALL_MONTHS))
    arguments = {"all_packages": ALL_PACKAGES, "ranked": RANKED_PACKAGES}
    insert = f"INSERT INTO top_packages (period, name, downloads, rank) {TOP_OF_MONTHS}"
    async with merge_joins(connection):
        await connection.execute(text(insert), arguments)


async def rewrite_rankings(connection: AsyncConnection, latest: date) -> None:
    """Rewrite the rankings from the figures of packages, whose periods end with `latest`."""
    await connection.execute(delete(top_packages).where(top_packages.c.period != ALL_MONTHS))
    await connection.execute(delete(trending_packages))
    for columns, rows in (
        ("top_packages (period, name, downloads, rank)", TOP_PACKAGES),
        ("trending_packages (name, last_week, previous_week, rank)", TRENDING_PACKAGES),
    ):
        await connection.execute(text(f"INSERT INTO {columns} {rows}"), figures_arguments(latest))
