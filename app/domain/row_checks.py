"""Checks of a package's downloads of one day, which are the same for all sources."""

from collections.abc import Mapping, Sequence
from operator import le
from typing import NamedTuple

from app.domain.breakdowns import BREAKDOWNS, OTHER_CATEGORY, Breakdown
from app.domain.downloads import Counts

MAX_DAILY_DOWNLOADS = 10**11
"""Maximum downloads of a package per day. All of PyPI has some 10**9 to 10**10."""

MAX_SEEN_CATEGORIES = 10_000

IMPOSSIBLE_TOTALS = "an impossible number of downloads"
NO_SUM = "does not add up to the downloads"

_INTEGERS = frozenset({int})
"""Types of valid counts. `bool` is excluded, although it is a subclass of `int`."""

_BREAKDOWNS: Mapping[str, Breakdown] = {one.column: one for one in BREAKDOWNS}

_seen: Mapping[str, set[str]] = {column: set() for column in _BREAKDOWNS}
"""Categories by column that were found to be valid. Nearly all rows have only these, and comparing
sets takes a fraction of the time of checking each category.
"""


class RowFault(NamedTuple):
    """A reason to reject a row."""

    kind: str
    """Description that is the same for all rows with this fault."""

    value: object = None


def are_possible(with_mirrors: Sequence[int], without_mirrors: Sequence[int]) -> bool:
    """Return True if the totals of all these packages are possible."""
    return (
        min(without_mirrors) >= 0
        and min(with_mirrors) >= 1
        and max(with_mirrors) <= MAX_DAILY_DOWNLOADS
        and all(map(le, without_mirrors, with_mirrors))
    )


def fault_of_counts(column: str, counts: Counts | None) -> RowFault | None:
    """Return the first fault of a package's counts of one breakdown, or None."""
    if counts is None:
        return RowFault(f"{column} is missing")
    breakdown = _BREAKDOWNS[column]
    limit = breakdown.max_categories
    if limit and len(counts) - (OTHER_CATEGORY in counts) > limit:
        return RowFault(f"{column} has too many categories", len(counts))
    if not _seen[column].issuperset(counts):
        for category in counts:
            if not _is_category(breakdown, category):
                return RowFault(f"{column} has an unknown category", category)
    downloads = counts.values()
    if not (_INTEGERS.issuperset(map(type, downloads)) and min(downloads, default=1) > 0):
        wrong = next(one for one in counts.items() if type(one[1]) is not int or one[1] <= 0)
        return RowFault(f"{column} has a count that is not a positive integer", dict([wrong]))
    return None


def respelled(column: str, counts: Mapping[str, int]) -> Counts:
    """Return a file's counts with each category in its stored spelling. Counts of categories that
    become equal are added.
    """
    breakdown = _BREAKDOWNS[column]
    if breakdown.respell is None:
        return counts
    merged: dict[str, int] = {}
    for category, downloads in counts.items():
        stored = breakdown.respell(category)
        if not _is_category(breakdown, stored):
            stored = category
        merged[stored] = merged[stored] + downloads if stored in merged else downloads
    return merged


def _is_category(breakdown: Breakdown, category: str) -> bool:
    seen = _seen[breakdown.column]
    if category in seen:
        return True
    if not breakdown.is_category(category):
        return False
    if len(seen) < MAX_SEEN_CATEGORIES:
        seen.add(category)
    return True
