"""The figures that stand with each package: its downloads in the latest periods, and its rank.

One statement rewrites them all, each row once: a second version of it in the same transaction would
find no room beside the first.
"""

from datetime import date, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import BY_BYTES
from app.package_name import ALL_PACKAGES
from app.rankings import POPULAR_PACKAGES, TREND_DAYS

RECENT_DAYS = 30
"""The longest period of `recent`."""

WEEK_DAYS = 7

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
    SELECT *,
        -- All packages together, and those without a download, come after all ranks.
        CASE WHEN last_month > 0 AND name <> '{ALL_PACKAGES}' THEN row_number() OVER (
            ORDER BY name = '{ALL_PACKAGES}', last_month DESC, name {BY_BYTES}
        ) END AS month_rank
    FROM ({{figures}}) AS figures
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
    SELECT id, name, moved.last_seen,
        coalesce(CAST(moved.last_day AS bigint), 0) AS last_day,
        packages.last_week
            + coalesce(CAST(moved.last_day - moved.left_week AS bigint), 0) AS last_week,
        packages.previous_week
            + coalesce(CAST(moved.joined_trend - moved.left_trend AS bigint), 0) AS previous_week,
        packages.last_month
            + coalesce(CAST(moved.last_day - moved.left_month AS bigint), 0) AS last_month
    FROM packages LEFT JOIN (
        SELECT package_id,
            max(date) AS last_seen,
            coalesce(sum(without_mirrors) FILTER (WHERE date = :latest), 0) AS last_day,
            coalesce(sum(without_mirrors) FILTER
                (WHERE date > :week AND date <= :week_end), 0) AS left_week,
            coalesce(sum(without_mirrors) FILTER
                (WHERE date > :joined AND date <= :week_end), 0)
                AS joined_trend,
            coalesce(sum(without_mirrors) FILTER
                (WHERE date > :trend AND date <= :trend_end), 0) AS left_trend,
            coalesce(sum(without_mirrors) FILTER
                (WHERE date > :month AND date <= :month_end), 0) AS left_month
        FROM daily_downloads WHERE date = :latest
            OR date > :week AND date <= :week_end
            OR date > :trend AND date <= :trend_end
            OR date > :month AND date <= :month_end
        GROUP BY package_id
    ) AS moved ON package_id = id
    """
)


def _periods(latest: date) -> dict[str, date]:
    """By their names, the days before the periods that end with `latest`."""
    return {
        "week": latest - timedelta(days=WEEK_DAYS),
        "trend": latest - timedelta(days=TREND_DAYS),
        "month": latest - timedelta(days=RECENT_DAYS),
    }


def _arguments(latest: date, periods: dict[str, date]) -> dict[str, object]:
    return {"latest": latest, "popular": POPULAR_PACKAGES, **periods}


async def sum_figures(connection: AsyncConnection, latest: date) -> None:
    """From the rows of all days that the figures are about."""
    await connection.execute(text(_SUM), _arguments(latest, _periods(latest)))


async def move_figures(connection: AsyncConnection, before: date, latest: date) -> None:
    """Make the periods end with `latest` instead of `before`: what is published of the days that
    they leave behind is taken away from them. That reads 4 days, where no day is missing, instead
    of 30.
    """
    old, new = _periods(before), _periods(latest)
    # What the week leaves behind joins the week before it, unless that has moved on further.
    bounds = {
        "week_end": min(before, new["week"]),
        "month_end": min(before, new["month"]),
        "joined": max(old["week"], new["trend"]),
        "trend_end": min(old["week"], new["trend"]),
    }
    await connection.execute(text(_MOVE), _arguments(latest, old | bounds))
