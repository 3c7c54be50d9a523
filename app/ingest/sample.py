"""Made-up downloads of real packages, to try the service without credentials.

A day's figures depend on nothing but the day: every run makes the same ones.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from operator import sub
from pathlib import Path
from random import Random

from app.breakdowns import (
    CI,
    COUNTRY,
    IMPLEMENTATION,
    INSTALLER,
    NULL_CATEGORY,
    OPTIONAL_BREAKDOWNS,
    OTHER_CATEGORY,
    VERSION,
    Breakdown,
    columns_with,
)
from app.downloads import PackageDownloads
from app.events import CountedFiles
from app.ingest.source import Reading

PACKAGES = tuple((Path(__file__).parent / "sample_packages.txt").read_text().split())
"""Names, most downloaded first."""

DAILY_DOWNLOADS_AT_RANK_1 = 60_000_000
RANK_EXPONENT = 0.675
"""Real downloads fall about so: 1.8 billion a month at rank 1, 17 million at rank 1,000."""

WEEKDAY_SHARES = (1.08, 1.14, 1.15, 1.13, 1.06, 0.72, 0.72)
"""Monday to Sunday: most downloads are made by machines that work when people do."""

YEARLY_GROWTH = 0.35

PYTHON_VERSIONS = {
    "2.7": date(2010, 7, 3),
    "3.8": date(2019, 10, 14),
    "3.9": date(2020, 10, 5),
    "3.10": date(2021, 10, 4),
    "3.11": date(2022, 10, 24),
    "3.12": date(2023, 10, 2),
    "3.13": date(2024, 10, 7),
    "3.14": date(2025, 10, 7),
    NULL_CATEGORY: date.min,
}
"""The Python versions in use, and when each was released."""

SYSTEM_SHARES = {
    "linux": 0.86,
    "windows": 0.07,
    "darwin": 0.04,
    "other": 0.001,
    NULL_CATEGORY: 0.02,
}

OPTIONAL_SHARES: Mapping[str, Mapping[str, float]] = {
    INSTALLER.column: {
        "pip": 0.79,
        "uv": 0.16,
        "poetry": 0.02,
        "requests": 0.02,
        "browser": 0.002,
        OTHER_CATEGORY: 0.001,
    },
    CI.column: {"true": 0.24, NULL_CATEGORY: 0.76},
    COUNTRY.column: {
        "US": 0.62,
        "IE": 0.08,
        "DE": 0.07,
        "CN": 0.06,
        "IN": 0.05,
        "SG": 0.05,
        "JP": 0.04,
        "GB": 0.03,
        NULL_CATEGORY: 0.005,
    },
    IMPLEMENTATION.column: {"cpython": 0.96, NULL_CATEGORY: 0.03, "pypy": 0.003},
}

FIRST_RELEASE = date(2015, 1, 1)
RELEASE_DAYS = (30, 240)
"""From one release of a package to the next, at least and at most."""

RELEASES_IN_USE = 5
RELEASES_A_SERIES = 6
"""After which the first part of a release's number goes up."""


@dataclass(frozen=True, slots=True)
class _Character:
    """What stays the same about a package from day to day."""

    name: str
    level: float
    """Downloads of an average day at the beginning of 2026."""

    yearly_growth: float
    weekday_strength: float
    mirror_share: float
    python_weights: Sequence[float]
    system_weights: Sequence[float]
    optional_bounds: Mapping[str, Sequence[float]]
    """By column, where each category's part of the downloads ends, between 0 and 1."""

    release_days: int


def _character(rank: int, name: str) -> _Character:
    random = Random(name).random  # noqa: S311 - nothing secret about it
    return _Character(
        name=name,
        level=DAILY_DOWNLOADS_AT_RANK_1 / rank**RANK_EXPONENT * (0.8 + 0.4 * random()),
        yearly_growth=YEARLY_GROWTH * random(),
        weekday_strength=0.5 + random(),
        mirror_share=0.01 * random(),
        python_weights=[0.6 + 0.8 * random() for _ in PYTHON_VERSIONS],
        system_weights=[0.6 + 0.8 * random() for _ in SYSTEM_SHARES],
        optional_bounds={
            column: _bounds([share * (0.6 + 0.8 * random()) for share in shares.values()])
            for column, shares in OPTIONAL_SHARES.items()
        },
        release_days=round(RELEASE_DAYS[0] + (RELEASE_DAYS[1] - RELEASE_DAYS[0]) * random()),
    )


def _bounds(weights: Sequence[float]) -> list[float]:
    ends = list(accumulate(weights))
    return [end / ends[-1] for end in ends]


_CHARACTERS = [_character(rank, name) for rank, name in enumerate(PACKAGES, start=1)]


class SampleSource:
    name = "sample"

    def __init__(self, breakdowns: Iterable[Breakdown] = OPTIONAL_BREAKDOWNS) -> None:
        self._columns = columns_with(breakdowns)

    async def origin(self, _: date) -> str:
        return self.name

    def counted_files(self, _: date) -> CountedFiles:
        """Sample data has no step on the day on which PyPI began to count only artifacts."""
        return CountedFiles.ARTIFACTS

    async def partition(self, _: date) -> None:
        """Return nothing: reading costs nothing."""

    async def begin(self, _: date) -> None:
        """It costs nothing."""

    async def read(self, day: date, _: str | None = None) -> Reading:
        return Reading(self._batches(day), columns=self._columns)

    async def _batches(self, day: date) -> AsyncGenerator[Sequence[PackageDownloads], None]:
        python_shares = _python_shares(day)
        yield [
            _downloads(character, day, python_shares, self._columns) for character in _CHARACTERS
        ]


def _downloads(
    package: _Character, day: date, python_shares: Mapping[str, float], columns: Collection[str]
) -> PackageDownloads:
    random = Random(f"{package.name} {day}").random  # noqa: S311 - nothing secret about it
    years = (day - date(2026, 1, 1)).days / 365
    weekday = 1 + (WEEKDAY_SHARES[day.weekday()] - 1) * package.weekday_strength
    noise = 0.96 + 0.08 * random()
    total = int(package.level * (1 + package.yearly_growth) ** years * weekday * noise)
    mirrors = int(2_000 * (0.5 + random()) + total * package.mirror_share)
    breakdowns = {
        "python_minor": _divide(total, python_shares, package.python_weights, random),
        "system": _divide(total, SYSTEM_SHARES, package.system_weights, random),
    }
    # In the same order whichever are asked for: a day's figures do not depend on that.
    for column, bounds in package.optional_bounds.items():
        bend = 0.2 * random() - 0.1
        if column in columns:
            breakdowns[column] = _cut(total, OPTIONAL_SHARES[column], bounds, bend)
    if VERSION.column in columns:
        releases, bounds = _releases(package.release_days, day)
        breakdowns[VERSION.column] = _cut(total, releases, bounds)
    return PackageDownloads(package.name, total + mirrors, total, breakdowns)


def _releases(release_days: int, day: date) -> tuple[list[str], list[float]]:
    """The releases in use, latest first. Each takes over within two weeks from the one before, and
    is forgotten by some with every one that follows.
    """
    latest, age = divmod((day - FIRST_RELEASE).days, release_days)
    numbers = range(latest, max(latest - RELEASES_IN_USE, -1), -1)
    names = [f"{number // RELEASES_A_SERIES}.{number % RELEASES_A_SERIES}.0" for number in numbers]
    weights = [0.55**passed for passed in range(len(names))]
    weights[0] *= min((age + 1) / 14, 1.0)
    return names, _bounds(weights)


def _python_shares(day: date) -> dict[str, float]:
    """Each version gains over two years from its release, then loses slowly to later ones."""
    shares = {}
    for version, released in PYTHON_VERSIONS.items():
        years = (day - released).days / 365
        shares[version] = min(years / 2, 1.0) * 0.75 ** max(years - 2, 0) if years > 0 else 0.0
    return shares | {"2.7": 0.004, NULL_CATEGORY: 0.03}


def _divide(
    total: int,
    shares: Mapping[str, float],
    weights: Sequence[float],
    random: Callable[[], float],
) -> dict[str, int]:
    """Divide a total into whole counts that add up to it; none is zero."""
    parts = [
        share * weight * (0.97 + 0.06 * random())
        for share, weight in zip(shares.values(), weights, strict=True)
    ]
    scale = total / sum(parts)
    counts = {}
    before = 0
    for category, bound in zip(shares, accumulate(parts), strict=True):
        after = round(scale * bound)
        if after > before:
            counts[category] = after - before
        before = after
    return counts


def _cut(
    total: int, categories: Iterable[str], bounds: Iterable[float], bend: float = 0.0
) -> dict[str, int]:
    """The same, at given bounds. To bend them moves all but the last, and keeps their order."""
    ends = [int(total * (bound + bend * bound * (1 - bound))) for bound in bounds]
    counts = map(sub, ends, [0, *ends])
    return {name: count for name, count in zip(categories, counts, strict=True) if count}
