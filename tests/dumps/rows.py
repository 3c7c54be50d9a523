"""Rows of a day, as hypothesis makes them up."""

from collections.abc import Sequence

from hypothesis import strategies as st

from app.domain.breakdowns import BREAKDOWNS, OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from app.domain.downloads import PackageDownloads

NAMES = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+){0,3}", fullmatch=True).filter(
    lambda name: len(name) <= 100
)
CATEGORIES = {
    breakdown.column: st.sampled_from(breakdown.categories)
    if isinstance(breakdown.categories, tuple)
    else st.from_regex(breakdown.categories, fullmatch=True)
    for breakdown in BREAKDOWNS
}


@st.composite
def _row(draw: st.DrawFn, name: str, columns: Sequence[str]) -> PackageDownloads:
    """A row as the pipeline accepts it: each breakdown adds up to the downloads."""
    total = draw(st.integers(0, 10**10))
    mirrors = draw(st.integers(0 if total else 1, 10**10))
    breakdowns = {}
    for column in columns:
        categories = draw(st.lists(CATEGORIES[column], min_size=1, max_size=8, unique=True))
        counts = {}
        left = total
        for category in categories[1:]:
            if left > 1:
                counts[category] = draw(st.integers(1, left - 1))
                left -= counts[category]
        if left:
            counts[categories[0]] = left
        breakdowns[column] = counts
    return PackageDownloads(name, total + mirrors, total, breakdowns)


@st.composite
def _days(draw: st.DrawFn) -> Sequence[PackageDownloads]:
    names = draw(st.lists(NAMES, min_size=1, max_size=12, unique=True))
    optional = draw(st.sets(st.sampled_from(OPTIONAL_COLUMNS)))
    columns = [*REQUIRED_COLUMNS, *(column for column in OPTIONAL_COLUMNS if column in optional)]
    return [draw(_row(name, columns)) for name in sorted(names)]


DAYS = _days()
"""In the order of packages."""
