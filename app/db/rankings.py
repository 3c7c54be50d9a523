"""The rankings, and what they are by the figures of `packages`.

They are tables, since none of the figures is indexed: a publish rewrites nearly all of them, and
what is indexed can't be rewritten in place.
"""

from datetime import date, timedelta

from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import BY_BYTES, top_packages, trending_packages
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import PERIODS, RANKED_PACKAGES, TREND_DAYS, TREND_FLOOR_DOWNLOADS

# By the bytes of the names where downloads are equal, so that every database ranks alike.
TOP = " UNION ALL ".join(
    f"SELECT '{period}' AS period,"
    f" row_number() OVER (ORDER BY downloads DESC, name {BY_BYTES}) AS rank, name, downloads "
    f"FROM (SELECT name, last_{period} AS downloads FROM packages"
    f" WHERE last_{period} > 0 AND name <> '{ALL_PACKAGES}'"
    f" ORDER BY downloads DESC, name {BY_BYTES} LIMIT {RANKED_PACKAGES}) AS of_{period}"
    for period in PERIODS
)
"""The rows of `top_packages`."""

TRENDING = f"""
SELECT row_number() OVER (ORDER BY growth DESC, name {BY_BYTES}) AS rank, name, last_week,
    previous_week
FROM (
    SELECT name, last_week, previous_week,
        CAST(last_week AS double precision) / previous_week AS growth
    FROM packages
    WHERE last_week > previous_week AND previous_week >= {TREND_FLOOR_DOWNLOADS}
        AND name <> '{ALL_PACKAGES}'
        AND {TREND_DAYS} =
            (SELECT count(*) FROM ingested_days WHERE day > :trend AND day <= :latest)
    ORDER BY growth DESC, name {BY_BYTES} LIMIT {RANKED_PACKAGES}
) AS growing
"""
"""The rows of `trending_packages`, by `trend_arguments`. None while a day of the two weeks is
missing: a week with a day less would have everything grow or shrink.
"""


def trend_arguments(latest: date) -> dict[str, date]:
    return {"latest": latest, "trend": latest - timedelta(days=TREND_DAYS)}


async def delete_rankings(connection: AsyncConnection) -> None:
    for table in (top_packages, trending_packages):
        await connection.execute(delete(table))


async def rewrite_rankings(connection: AsyncConnection, latest: date) -> None:
    """From the figures of packages, which are those of the latest published day."""
    await delete_rankings(connection)
    await connection.execute(
        text(f"INSERT INTO top_packages (period, rank, name, downloads) {TOP}")
    )
    await connection.execute(
        text(f"INSERT INTO trending_packages (rank, name, last_week, previous_week) {TRENDING}"),
        trend_arguments(latest),
    )
