"""The figures that stand with each package: its downloads in the latest periods, and its rank.

One statement rewrites them all, each row once: a second version of it in the same transaction would
find no room beside the first.
"""

from datetime import date, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import BY_BYTES
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import POPULAR_PACKAGES, TREND_DAYS

RECENT_DAYS = 30
"""The longest period of `recent`."""

WEEK_DAYS = 7

# All packages together, and those without a download, have no rank: they come after all others.
# In the order of the ids, which by and large is that of the pages, each page is written once.
_UPDATE = f"""
UPDATE packages SET
    last_seen = greatest(packages.last_seen, ranked.last_seen),
    last_day = ranked.last_day,
    last_week = ranked.last_week,
    last_month = ranked.last_month,
    previous_week = ranked.previous_week,
    month_rank = ranked.month_rank,
    is_popular = coalesce(ranked.month_rank <= :popular, false)
FROM (
    SELECT id, last_seen, last_day, last_week, last_month, previous_week,
        CASE WHEN ranked_by > 0 THEN
            row_number() OVER (ORDER BY ranked_by DESC, name {BY_BYTES})
        END AS month_rank
    FROM (
        SELECT *, CASE WHEN name <> '{ALL_PACKAGES}' THEN last_month ELSE 0 END AS ranked_by
        FROM ({{figures}}) AS figures
    ) AS to_rank
    ORDER BY id
) AS ranked
WHERE packages.id = ranked.id AND (
    packages.last_seen < ranked.last_seen
    OR (packages.last_day, packages.last_week, packages.last_month, packages.previous_week,
        packages.month_rank)
    IS DISTINCT FROM (ranked.last_day, ranked.last_week, ranked.last_month, ranked.previous_week,
        ranked.month_rank)
)
"""

# Sums are numeric, which takes longer to sort and to compare than what they are stored as.
_SUM = _UPDATE.format(
    figures="""
    SELECT id, name, sums.last_seen,
        coalesce(CAST(sums.last_day AS bigint), 0) AS last_day,
        coalesce(CAST(sums.last_week AS bigint), 0) AS last_week,
        coalesce(CAST(sums.previous_week AS bigint), 0) AS previous_week,
        coalesce(CAST(sums.last_month AS bigint), 0) AS last_month
    FROM packages LEFT JOIN (
        SELECT package_id,
            max(date) AS last_seen,
            sum(without_mirrors) FILTER (WHERE date = :latest) AS last_day,
            sum(without_mirrors) FILTER (WHERE date > :week) AS last_week,
            sum(without_mirrors) FILTER (WHERE date > :trend AND date <= :week) AS previous_week,
            sum(without_mirrors) AS last_month
        FROM daily_downloads WHERE date > :month AND date <= :latest
        GROUP BY package_id
    ) AS sums ON package_id = id
    """
)

_MOVE = _UPDATE.format(
    figures="""
    SELECT id, name,
        CASE WHEN latest.package_id IS NOT NULL THEN CAST(:latest AS date) END AS last_seen,
        coalesce(latest.without_mirrors, 0) AS last_day,
        last_week + coalesce(latest.without_mirrors, 0) - coalesce(week.without_mirrors, 0)
            AS last_week,
        previous_week + coalesce(week.without_mirrors, 0) - coalesce(trend.without_mirrors, 0)
            AS previous_week,
        last_month + coalesce(latest.without_mirrors, 0) - coalesce(month.without_mirrors, 0)
            AS last_month
    FROM packages
    """
    + "".join(
        f"""
    LEFT JOIN (SELECT package_id, without_mirrors FROM daily_downloads WHERE date = :{day})
        AS {day} ON {day}.package_id = id
    """
        for day in ("latest", "week", "trend", "month")
    )
)

_SLOW_JOINS = ("enable_nestloop", "enable_hashjoin")


def _arguments(latest: date) -> dict[str, object]:
    """With the days before the periods that end with `latest`, by the names of the periods."""
    return {
        "popular": POPULAR_PACKAGES,
        "latest": latest,
        "week": latest - timedelta(days=WEEK_DAYS),
        "trend": latest - timedelta(days=TREND_DAYS),
        "month": latest - timedelta(days=RECENT_DAYS),
    }


async def sum_figures(connection: AsyncConnection, latest: date) -> None:
    """From the rows of all days that the figures are about."""
    await _update(connection, _SUM, latest)


async def move_figures(connection: AsyncConnection, latest: date) -> None:
    """Make the periods that ended a day before `latest` end with it: each gains a day, and loses
    one. That reads 4 days instead of 30.
    """
    await _update(connection, _MOVE, latest)


async def _update(connection: AsyncConnection, statement: str, latest: date) -> None:
    # Postgres has yet to find out that there are rows of a new day. A loop through those of every
    # package, which is right for one row, would take hours. All come nearly in the order of the
    # ids: to merge them takes two thirds of the time of going to and fro in tables of hashes.
    for joins in _SLOW_JOINS:
        await connection.execute(text(f"SET LOCAL {joins} = off"))
    await connection.execute(text(statement), _arguments(latest))
    for joins in _SLOW_JOINS:
        await connection.execute(text(f"SET LOCAL {joins} = DEFAULT"))
