"""Figures of each package (downloads in the latest periods, and rank), and the rankings by them.

One statement rewrites all figures, each row once: a second version of a row in the same transaction
would find no room beside the first. Rankings are tables, since no figure is indexed: a publish
rewrites nearly all of them, and an indexed column can't be rewritten in place.
"""

from datetime import date, timedelta

from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.sql import load_sql
from app.db.tables import top_packages, trending_packages
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import (
    POPULAR_PACKAGES,
    RANKED_PACKAGES,
    TREND_DAYS,
    TREND_FLOOR_DOWNLOADS,
)

RECENT_DAYS = 30
"""Length of the longest period of `recent`."""

_SUM = load_sql("update_figures", figures=load_sql("sum_figures"))
_MOVE = load_sql("update_figures", figures=load_sql("move_figures"))

TOP_PACKAGES = load_sql("top_packages")
TRENDING_PACKAGES = load_sql("trending_packages")

_SLOW_JOINS = ("enable_nestloop", "enable_hashjoin")


def figures_arguments(latest: date) -> dict[str, object]:
    """Return the arguments of this module's statements, for periods that end with `latest`. `week`,
    `trend` and `month` are the days before their periods.
    """
    return {
        "all_packages": ALL_PACKAGES,
        "popular": POPULAR_PACKAGES,
        "ranked": RANKED_PACKAGES,
        "trend_days": TREND_DAYS,
        "trend_floor": TREND_FLOOR_DOWNLOADS,
        "latest": latest,
        "week": latest - timedelta(days=7),
        "trend": latest - timedelta(days=TREND_DAYS),
        "month": latest - timedelta(days=RECENT_DAYS),
    }


async def update_figures(connection: AsyncConnection, latest: date, *, is_next: bool) -> None:
    """Move periods that ended a day before `latest` on by a day. Unless `is_next`, sum the figures
    anew, from the rows of all days of the periods.
    """
    statement = _MOVE if is_next else _SUM
    # Postgres has no statistics about the rows of a new day yet. It might expect one row and choose
    # a nested loop, which would take hours. Rows are nearly in the order of ids, so a merge join
    # takes two thirds of the time of a hash join.
    for joins in _SLOW_JOINS:
        await connection.execute(text(f"SET LOCAL {joins} = off"))
    await connection.execute(text(statement), figures_arguments(latest))
    for joins in _SLOW_JOINS:
        await connection.execute(text(f"SET LOCAL {joins} = DEFAULT"))


async def delete_rankings(connection: AsyncConnection) -> None:
    for table in (top_packages, trending_packages):
        await connection.execute(delete(table))


async def rewrite_rankings(connection: AsyncConnection, latest: date) -> None:
    """Rewrite the rankings from the figures, which are those of the latest published day."""
    await delete_rankings(connection)
    for columns, rows in (
        ("top_packages (period, name, downloads, rank)", TOP_PACKAGES),
        ("trending_packages (name, last_week, previous_week, rank)", TRENDING_PACKAGES),
    ):
        await connection.execute(text(f"INSERT INTO {columns} {rows}"), figures_arguments(latest))
