"""Reads rankings, search results and summaries, with one query per response."""

from dataclasses import dataclass
from datetime import date

from app.db.repositories.downloads_repository import history_arguments
from app.db.sql import load_sql
from app.db.statements import PublishedReads, Queryable, published_statement
from app.db.tables import BY_BYTES
from app.domain.downloads import RecentDownloads
from app.domain.history import History
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import (
    ALL_MONTHS,
    MONTH_DAYS,
    PERIOD_DAYS,
    RANKED_PACKAGES,
    TREND_DAYS,
    UNRANKED,
    Match,
    SearchPosition,
    Tier,
    TopPackage,
    TrendingPackage,
)


@dataclass(frozen=True, slots=True)
class StoredSummary:
    """Figures of a package in the days served, known mirrors excluded."""

    recent: RecentDownloads
    previous_week: int | None
    """Downloads in the 7 days before the latest 7, or None if one of the 14 is not published."""

    previous_month: int | None
    """Downloads in the 30 days before the latest 30, or None if one of the 60 is not published."""

    month_rank: int | None
    """Rank by `last_month`, or None for `__all__` and if `last_month` is 0."""

    downloads: int
    first_date: date | None
    """First day with a download, or None if there is none."""

    latest_date: date | None
    peak_date: date | None
    """Day with the most downloads, or the first of several such days."""

    peak_downloads: int
    total: int
    """Downloads in all known days, also outside of the days served."""


_BY_TRIGRAMS = "is_popular AND name % :text"

# Without pg_trgm, search finds names that contain the text. The subquery reads only the index, so
# that only the rows of matching names are read.
_BY_SUBSTRING = (
    "name = ANY (ARRAY(SELECT name FROM packages WHERE is_popular AND strpos(name, :text) > 0))"
)


_ALL_DOWNLOADS = {
    period: f"SELECT last_{period} FROM packages WHERE name = '{ALL_PACKAGES}'"
    for period in PERIOD_DAYS
} | {ALL_MONTHS: "SELECT CAST(sum(downloads) AS bigint) FROM stored_months"}
_TOP = {
    period: published_statement("top", order="rank", period=period, all_downloads=all_downloads)
    for period, all_downloads in _ALL_DOWNLOADS.items()
}
_TOP_OF_MONTH = published_statement("top_of_month", order="rank", ranked_packages=RANKED_PACKAGES)
_TRENDING = published_statement("trending", order="rank")


class RankingsRepository(PublishedReads):
    """Reads the days served: the `retention_days` days that end with the latest published one."""

    def __init__(self, source: Queryable, retention_days: int) -> None:
        super().__init__(source)
        self._search_by_trigrams, self._search_by_substring = (
            published_statement(
                "search_packages",
                order="tier, rank, name",
                similar=similar,
                by_bytes=BY_BYTES,
                all_packages=ALL_PACKAGES,
                unranked=UNRANKED,
                retention_days=retention_days,
            )
            for similar in (_BY_TRIGRAMS, _BY_SUBSTRING)
        )
        self._summary = published_statement(
            "summary",
            history=load_sql("history"),
            trend_days=TREND_DAYS,
            month_days=MONTH_DAYS,
            retention_days=retention_days,
        )

    async def top(self, period: str, limit: int) -> list[TopPackage]:
        """Return the packages with the most downloads in a period of `PERIOD_DAYS`, or
        `ALL_MONTHS`.
        """
        return [TopPackage(*row) for row in await self._read(_TOP[period], limit=limit)]

    async def top_of_month(self, month: date, limit: int) -> list[TopPackage]:
        """Return the packages with the most downloads in a stored month."""
        rows = await self._read(_TOP_OF_MONTH, month=month, limit=limit)
        return [TopPackage(*row) for row in rows]

    async def trending(self, limit: int) -> list[TrendingPackage]:
        """Return the packages whose downloads grew most from week to week."""
        return [TrendingPackage(*row) for row in await self._read(_TRENDING, limit=limit)]

    async def search(
        self, name: str, limit: int, after: SearchPosition, *, by_trigrams: bool
    ) -> list[Match]:
        """Return the matches for a normalised name or its beginning, after a position. The last
        tier contains similar names, or names that contain the text if there is no trigram index.
        """
        query = self._search_by_trigrams if by_trigrams else self._search_by_substring
        rows = await self._read(
            query, text=name, limit=limit, tier=after.tier, rank=after.rank, name=after.package
        )
        return [
            Match(SearchPosition(Tier(tier), rank, package), downloads)
            for tier, rank, package, downloads in rows
        ]

    async def summary(self, package: str, history: History) -> StoredSummary | None:
        """Return a package's figures, or None if it had no download in the days served."""
        rows = await self._read(self._summary, **history_arguments(package, history))
        return StoredSummary(RecentDownloads(*rows[0][:3]), *rows[0][3:]) if rows else None
