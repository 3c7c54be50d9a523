"""Rows of a day, as hypothesis makes them up."""

from collections.abc import Sequence

from hypothesis import strategies as st

from app.domain.breakdowns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, Implementation, Installer
from app.domain.downloads import PackageDownloads

NAMES = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+){0,3}", fullmatch=True).filter(
    lambda name: len(name) <= 100
)
CATEGORIES = {
    "python_minor": st.from_regex(r"[0-9]\.[0-9]{1,300}|null", fullmatch=True),
    "system": st.sampled_from(["windows", "linux", "darwin", "other", "null"]),
    "installer": st.sampled_from(list(map(str, Installer))),
    "ci": st.sampled_from(["true", "false", "null"]),
    "country": st.from_regex(r"[A-Z]{2}|null", fullmatch=True),
    "version": st.from_regex(r"[!-~]{1,64}", fullmatch=True),
    "implementation": st.sampled_from(list(map(str, Implementation))),
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
