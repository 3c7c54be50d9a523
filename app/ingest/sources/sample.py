"""Made-up downloads of real packages, to try the service without credentials.

The figures depend only on the day, so every run makes the same ones.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from operator import mul, sub
from pathlib import Path
from random import Random
from zlib import crc32

from app.domain.breakdowns import (
    BREAKDOWNS,
    NULL_CATEGORY,
    OPTIONAL_BREAKDOWNS,
    PYTHON_MINOR,
    VERSION,
    Breakdown,
    columns_with,
)
from app.domain.downloads import PackageDownloads
from app.domain.events import CountedFiles
from app.ingest.sources.source import Reading

PACKAGES = tuple((Path(__file__).parent / "sample_packages.txt").read_text().split())
"""Names of the packages, most downloaded first."""

DAILY_DOWNLOADS_AT_RANK_1 = 60_000_000
RANK_EXPONENT = 0.675
"""Exponent by which downloads decrease with the rank. Real packages have about 1.8 billion a month
at rank 1 and 17 million at rank 1,000.
"""

WEEKDAY_SHARES = (1.08, 1.14, 1.15, 1.13, 1.06, 0.72, 0.72)
"""Downloads of each weekday from Monday on, as ratios to the mean: weekends have fewer."""

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

FIRST_RELEASE = date(2015, 1, 1)
RELEASE_DAYS = (30, 240)
"""Minimum and maximum number of days from one release of a package to the next."""

RELEASES_IN_USE = 5
RELEASES_A_SERIES = 6
"""Number of releases with the same first part of the version."""


SHARES = {one.column: one.sample_shares for one in BREAKDOWNS if one.sample_shares}
"""Shares of the categories in the registry of breakdowns, by column."""


@dataclass(frozen=True, slots=True)
class _Character:
    """The properties of a package that are the same on all days."""

    name: str
    level: float
    """Downloads of an average day at the beginning of 2026."""

    yearly_growth: float
    weekday_strength: float
    mirror_share: float
    python_weights: Sequence[float]
    bounds: Mapping[str, Sequence[float]]
    """Cumulative shares of the categories, between 0 and 1, by column."""

    release_days: int


def _character(rank: int, name: str) -> _Character:
    random = _random(name)
    return _Character(
        name=name,
        level=DAILY_DOWNLOADS_AT_RANK_1 / rank**RANK_EXPONENT * (0.8 + 0.4 * random()),
        yearly_growth=YEARLY_GROWTH * random(),
        weekday_strength=0.5 + random(),
        mirror_share=0.01 * random(),
        python_weights=_weights(f"{name} {PYTHON_MINOR.column}", len(PYTHON_VERSIONS)),
        bounds={
            column: _bounds(
                list(map(mul, shares.values(), _weights(f"{name} {column}", len(shares))))
            )
            for column, shares in SHARES.items()
        },
        release_days=round(
            RELEASE_DAYS[0]
            + (RELEASE_DAYS[1] - RELEASE_DAYS[0]) * _random(f"{name} {VERSION.column}")()
        ),
    )


def _random(seed: str) -> Callable[[], float]:
    """Return a stream of random numbers. Each breakdown has its own and changes no other."""
    return Random(seed).random  # noqa: S311 - the figures are not secret


def _weights(seed: str, count: int) -> list[float]:
    random = _random(seed)
    return [0.6 + 0.8 * random() for _ in range(count)]


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
        """Return nothing: reading costs nothing."""

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
    seed = f"{package.name} {day}"
    random = _random(seed)
    years = (day - date(2026, 1, 1)).days / 365
    weekday = 1 + (WEEKDAY_SHARES[day.weekday()] - 1) * package.weekday_strength
    noise = 0.96 + 0.08 * random()
    total = int(package.level * (1 + package.yearly_growth) ** years * weekday * noise)
    mirrors = int(2_000 * (0.5 + random()) + total * package.mirror_share)
    breakdowns = {
        PYTHON_MINOR.column: _divide(total, python_shares, package.python_weights, random)
    }
    for column, bounds in package.bounds.items():
        if column in columns:
            # The checksum serves as a random number, because creating a generator takes longer.
            bend = 0.2 * (crc32(f"{seed} {column}".encode()) / 2**32) - 0.1
            breakdowns[column] = _cut(total, SHARES[column], bounds, bend)
    if VERSION.column in columns:
        releases, ends = _releases(package.release_days, day)
        breakdowns[VERSION.column] = _cut(total, releases, ends)
    return PackageDownloads(package.name, total + mirrors, total, breakdowns)


def _releases(release_days: int, day: date) -> tuple[list[str], list[float]]:
    """Return the releases in use, latest first, and their cumulative shares. The latest one grows
    for two weeks, and each later release lowers the shares of earlier ones.
    """
    latest, age = divmod((day - FIRST_RELEASE).days, release_days)
    numbers = range(latest, max(latest - RELEASES_IN_USE, -1), -1)
    names = [f"{number // RELEASES_A_SERIES}.{number % RELEASES_A_SERIES}.0" for number in numbers]
    weights = [0.55**passed for passed in range(len(names))]
    weights[0] *= min((age + 1) / 14, 1.0)
    return names, _bounds(weights)


def _python_shares(day: date) -> dict[str, float]:
    """Return the shares of the versions. Each version grows for two years after its release, and
    then slowly loses to later ones.
    """
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
    """Divide a total at given bounds. `bend` moves all bounds but the last, in order."""
    ends = [int(total * (bound + bend * bound * (1 - bound))) for bound in bounds]
    counts = map(sub, ends, [0, *ends])
    return {name: count for name, count in zip(categories, counts, strict=True) if count}
