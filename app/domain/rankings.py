"""How packages are ranked by their downloads, known mirrors excluded, and found by name.

`__all__` is no package here: it has no rank, and is in no ranking.
"""

from enum import IntEnum
from typing import NamedTuple

RANKED_PACKAGES = 1_000
"""Maximum number of packages in a ranking."""

PERIODS = ("day", "week", "month")
"""Periods with a ranking by downloads: the latest day, 7 days and 30 days."""

TREND_DAYS = 14
"""Number of days that a trend compares: a week, and the week before it."""

TREND_FLOOR_DOWNLOADS = 10_000
"""Minimum downloads of a trending package in each week. Below, one build job makes a trend."""

POPULAR_PACKAGES = 20_000
"""Packages by last month's downloads in which search looks first, and finds what is misspelt: some
3% of PyPI's packages and nearly all of its downloads. What they have in common with a text is found
in a few milliseconds, whatever the text.
"""


class TopPackage(NamedTuple):
    rank: int
    """From 1. Equal downloads are ranked by name."""

    package: str
    downloads: int
    all_downloads: int
    """Of all packages in the period."""


class TrendingPackage(NamedTuple):
    rank: int
    """From 1, by growth from week to week. Equal growth is ranked by name."""

    package: str
    last_week: int
    previous_week: int


class Tier(IntEnum):
    """How a name matches a text."""

    BEFORE_ALL = -1
    """No name matches in this way: it starts a search."""

    IS = 0
    BEGINS = 1
    RESEMBLES = 2


class SearchPosition(NamedTuple):
    """Where a match stands among all matches of a search, which are in this order."""

    tier: Tier
    rank: int
    """Rank by last month's downloads, or `UNRANKED`."""

    package: str


UNRANKED = 2**31 - 1
"""Replaces the rank of a package without downloads last month, behind all ranked packages."""

START = SearchPosition(Tier.BEFORE_ALL, 0, "")
"""The position before all matches."""


class Match(NamedTuple):
    """A package that a search found."""

    position: SearchPosition
    last_month: int

    @property
    def rank(self) -> int | None:
        return None if self.position.rank == UNRANKED else self.position.rank
