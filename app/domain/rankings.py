"""Rankings of packages by downloads, known mirrors excluded, and the order of search results.

`__all__` has no rank and appears in no ranking.
"""

from enum import IntEnum
from typing import NamedTuple

RANKED_PACKAGES = 1_000
"""Maximum number of packages in a ranking."""

WEEK_DAYS = 7
MONTH_DAYS = 30

PERIOD_DAYS = {"day": 1, "week": WEEK_DAYS, "month": MONTH_DAYS}
"""Periods that end with the latest day and have a ranking by downloads, with their lengths."""

ALL_MONTHS = "all"
"""Period of the ranking by the sum of all stored months."""

ALL_MONTHS = "all"
"""Period of the ranking by the downloads of all stored months."""

TREND_DAYS = 2 * WEEK_DAYS
"""Number of days that a trend compares: a week, and the week before it."""

TREND_FLOOR_DOWNLOADS = 10_000
"""Minimum downloads of a trending package in each week. With fewer, a single build job can look
like a trend.
"""

POPULAR_PACKAGES = 20_000
"""Number of packages with the most downloads last month that count as popular. Search reads them
first, and finds misspelt names only among them. They are some 3% of PyPI's packages and have nearly
all of its downloads. Comparing their names with a text takes a few milliseconds.
"""


class TopPackage(NamedTuple):
    rank: int
    package: str
    downloads: int
    all_downloads: int
    """Downloads of all packages in the period."""


class TrendingPackage(NamedTuple):
    rank: int
    package: str
    last_week: int
    previous_week: int


class Tier(IntEnum):
    """How a name matches a text."""

    BEFORE_ALL = -1
    """Tier before all matches, at which a search starts."""

    EXACT = 0
    PREFIX = 1
    SIMILAR = 2


class SearchPosition(NamedTuple):
    """Position of a match in the results of a search, which are sorted by these values."""

    tier: Tier
    rank: int
    """Rank by last month's downloads, or `UNRANKED`."""

    package: str


UNRANKED = 2**31 - 1
"""Rank of packages without downloads last month, which come after all ranked packages."""

START = SearchPosition(Tier.BEFORE_ALL, 0, "")
"""The position before all matches."""


class Match(NamedTuple):
    """A package that a search found."""

    position: SearchPosition
    last_month: int

    @property
    def rank(self) -> int | None:
        return None if self.position.rank == UNRANKED else self.position.rank
