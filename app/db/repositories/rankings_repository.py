"""Reads rankings, search results and summaries, with one query for each response."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import bindparam, column, select, text

from app.db.published_reads import PublishedReads, published_statement
from app.db.sql import load_sql
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


_BY_TRIGRAMS = "is_popular AND name % :text"

# Without pg_trgm, search finds names that contain the text. The subquery reads names from the index
# alone, and then only the rows of the names found are read.
_BY_SUBSTRING = (
    "name = ANY (ARRAY(SELECT name FROM packages WHERE is_popular AND strpos(name, :text) > 0))"
)


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
        self._search_by_trigrams, self._search_by_substring = (
            _statement(
                load_sql(
                    "search_packages",
                    similar=similar,
                    by_bytes=BY_BYTES,
                    all_packages=ALL_PACKAGES,
                    unranked=str(UNRANKED),
                    retention_days=str(retention_days),
                ),
                _SEARCH_COLUMNS,
                *("tier", "rank", "name"),
            )
            for similar in (_BY_TRIGRAMS, _BY_SUBSTRING)
        )
        summary = load_sql(
            "summary",
            columns=", ".join(_SUMMARY_COLUMNS),
            trend_days=str(TREND_DAYS),
            month_days=str(MONTH_DAYS),
            retention_days=str(retention_days),
        )
        self._summary = _statement(summary, _SUMMARY_COLUMNS)

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
