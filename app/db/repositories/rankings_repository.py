"""Reads rankings, search results and summaries, with one query for each response."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import bindparam, column, select, text

from app.db.published_reads import PublishedReads, published_statement
from app.db.statements import Source, Statement
from app.db.tables import BY_BYTES, packages, top_packages, trending_packages
from app.domain.downloads import RecentDownloads
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import (
    PERIODS,
    TREND_DAYS,
    UNRANKED,
    Match,
    SearchPosition,
    Tier,
    TopPackage,
    TrendingPackage,
)

MONTH_DAYS = 30


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a package in the days served, known mirrors excluded."""

    recent: RecentDownloads
    previous_week: int | None
    """Downloads in the 7 days before the last 7, or None if one of the 14 is not published."""

    previous_month: int | None
    """Downloads in the 30 days before the last 30, or None if one of the 60 is not published."""

    month_rank: int | None
    """Rank by `last_month`, or None for `__all__` and for packages without downloads in it."""

    downloads: int
    first_date: date | None
    """First day with a download, or None if there is none."""

    latest_date: date | None
    peak_date: date | None
    """First of the days with most downloads."""

    peak_downloads: int


# Each part is limited, and runs only if the parts before it found fewer rows than the limit:
# popular packages rank before all others. The test for that is outside of the limited subquery, so
# that Postgres starts no parallel workers for a part that does not run. Names consist of letters,
# digits and "-", which all sort before "~".
_SEARCH = """
WITH popular AS MATERIALIZED (
    SELECT * FROM (
        SELECT 1 AS tier, month_rank AS rank, name {by_bytes} AS name, last_month
        FROM packages
        WHERE is_popular AND name {by_bytes} > :text AND name {by_bytes} < :text || '~'
            AND (1, month_rank, name {by_bytes}) > (:tier, :rank, :name)
        ORDER BY rank
        LIMIT :limit
    ) AS first
    WHERE CAST(:tier AS integer) < 2
),
others AS MATERIALIZED (
    SELECT * FROM (
        SELECT 1 AS tier, coalesce(month_rank, {unranked}) AS rank, name {by_bytes} AS name,
            last_month
        FROM packages
        WHERE NOT is_popular AND name {by_bytes} > :text AND name {by_bytes} < :text || '~'
            AND last_seen > (SELECT max(day) FROM ingested_days) - {retention_days}
            AND (1, coalesce(month_rank, {unranked}), name {by_bytes}) > (:tier, :rank, :name)
        ORDER BY rank, name
        LIMIT :limit
    ) AS first
    WHERE CAST(:tier AS integer) < 2 AND (SELECT count(*) FROM popular) < :limit
),
similar_ones AS MATERIALIZED (
    SELECT * FROM (
        SELECT 2 AS tier, month_rank AS rank, name {by_bytes} AS name, last_month
        FROM packages
        WHERE {similar} AND NOT starts_with(name, :text)
            AND (2, month_rank, name {by_bytes}) > (:tier, :rank, :name)
        ORDER BY rank
        LIMIT :limit
    ) AS first
    WHERE (SELECT count(*) FROM popular) + (SELECT count(*) FROM others) < :limit
)
SELECT 0 AS tier, coalesce(month_rank, {unranked}) AS rank, name {by_bytes} AS name, last_month
FROM packages
WHERE CAST(:tier AS integer) < 0 AND name = :text AND name <> '{all_packages}'
    AND last_seen > (SELECT max(day) FROM ingested_days) - {retention_days}
UNION ALL SELECT * FROM popular
UNION ALL SELECT * FROM others
UNION ALL SELECT * FROM similar_ones
ORDER BY 1, 2, 3
LIMIT :limit
"""

_BY_TRIGRAMS = "is_popular AND name % :text"

# Without pg_trgm, search finds names that contain the text. The subquery reads names from the index
# alone, and then only the rows of the names found are read.
_BY_SUBSTRING = (
    "name = ANY (ARRAY(SELECT name FROM packages WHERE is_popular AND strpos(name, :text) > 0))"
)

_SUMMARY = """
SELECT {columns}
FROM packages
CROSS JOIN (
    SELECT max(day) AS latest,
        count(*) FILTER (WHERE day > latest - {trend_days}) AS trend_days,
        count(*) FILTER (WHERE day > latest - 2 * {month_days}) AS month_days
    FROM ingested_days, (SELECT max(day) AS latest FROM ingested_days) AS of_all
    WHERE day > latest - {retention_days}
) AS days
CROSS JOIN LATERAL (
    SELECT coalesce(CAST(sum(without_mirrors) AS bigint), 0) AS downloads,
        min(date) FILTER (WHERE without_mirrors > 0) AS first_date,
        max(date) FILTER (WHERE without_mirrors > 0) AS latest_date,
        (array_agg(date ORDER BY without_mirrors DESC, date)
            FILTER (WHERE without_mirrors > 0))[1] AS peak_date,
        coalesce(max(without_mirrors), 0) AS peak_downloads,
        coalesce(CAST(sum(without_mirrors) FILTER (
            WHERE date > latest - 2 * {month_days} AND date <= latest - {month_days}
        ) AS bigint), 0) AS previous_month
    FROM daily_downloads
    WHERE package_id = packages.id
        AND date > (SELECT max(day) FROM ingested_days) - {retention_days}
) AS series
WHERE name = :package AND last_seen > latest - {retention_days}
"""


_SEARCH_COLUMNS = ("tier", "rank", "name", "last_month")

_SUMMARY_COLUMNS = (
    "last_day",
    "last_week",
    "last_month",
    "previous_week",
    "month_rank",
    "downloads",
    "first_date",
    "latest_date",
    "peak_date",
    "peak_downloads",
    "previous_month",
    "trend_days",
    "month_days",
)


def _statement(sql: str, columns: Sequence[str], *order: str) -> Statement:
    return published_statement(text(sql).columns(*map(column, columns)), *order)


def _top(period: str) -> Statement:
    every = select(packages.c[f"last_{period}"]).where(packages.c.name == ALL_PACKAGES)
    top = select(
        top_packages.c.rank,
        top_packages.c.name,
        top_packages.c.downloads,
        every.scalar_subquery().label("all_downloads"),
    )
    return published_statement(
        top.where(top_packages.c.period == period, top_packages.c.rank <= bindparam("limit")),
        "rank",
    )


_TOP = {period: _top(period) for period in PERIODS}

_TRENDING = published_statement(
    select(trending_packages).where(trending_packages.c.rank <= bindparam("limit")), "rank"
)


class RankingsRepository(PublishedReads):
    """Reads the days served: the `retention_days` that end with the latest published one."""

    def __init__(self, source: Source, retention_days: int) -> None:
        super().__init__(source)
        search = {
            "by_bytes": BY_BYTES,
            "all_packages": ALL_PACKAGES,
            "unranked": UNRANKED,
            "retention_days": retention_days,
        }
        self._search_by_trigrams, self._search_by_substring = (
            _statement(
                _SEARCH.format(similar=similar, **search), _SEARCH_COLUMNS, "tier", "rank", "name"
            )
            for similar in (_BY_TRIGRAMS, _BY_SUBSTRING)
        )
        self._summary = _statement(
            _SUMMARY.format(
                columns=", ".join(_SUMMARY_COLUMNS),
                trend_days=TREND_DAYS,
                month_days=MONTH_DAYS,
                retention_days=retention_days,
            ),
            _SUMMARY_COLUMNS,
        )

    async def top(self, period: str, limit: int) -> list[TopPackage]:
        """Return the packages with most downloads in the latest `day`, `week` or `month`."""
        return [TopPackage(*row) for row in await self._read(_TOP[period], limit=limit)]

    async def trending(self, limit: int) -> list[TrendingPackage]:
        """Return the packages that grew most from week to week."""
        return [TrendingPackage(*row) for row in await self._read(_TRENDING, limit=limit)]

    async def search(
        self, name: str, limit: int, after: SearchPosition, *, by_trigrams: bool
    ) -> list[Match]:
        """Return the matches for a normalised name or its beginning, after a position. The last
        tier contains similar names, or names that contain the text if there is no trigram index.
        """
        arguments = {
            "text": name,
            "limit": limit,
            "tier": after.tier,
            "rank": after.rank,
            "name": after.package,
        }
        query = self._search_by_trigrams if by_trigrams else self._search_by_substring
        return [
            Match(SearchPosition(Tier(tier), rank, package), downloads)
            for tier, rank, package, downloads in await self._read(query, **arguments)
        ]

    async def summary(self, package: str) -> Summary | None:
        """Return a package's figures, or None if it had no download in the days served."""
        rows = await self._read(self._summary, package=package)
        if not rows:
            return None
        found = dict(zip(_SUMMARY_COLUMNS, rows[0], strict=True))
        trend_days, month_days = found.pop("trend_days"), found.pop("month_days")
        recent = RecentDownloads(*(found.pop(f"last_{period}") for period in PERIODS))
        if trend_days < TREND_DAYS:
            found["previous_week"] = None
        if month_days < 2 * MONTH_DAYS:
            found["previous_month"] = None
        return Summary(recent=recent, **found)
