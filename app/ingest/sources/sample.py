"""The source of sample data: made-up downloads of real packages, for trying the service.

The figures depend only on the day, so every run creates the same ones.
"""

from collections import Counter
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
from app.domain.months import Period, days_of
from app.ingest.sources.source import DayRows, Source

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

FIRST_RELEASE = date(2015, 1, 1)
RELEASE_DAYS = (30, 240)
"""Minimum and maximum number of days from one release of a package to the next."""

RELEASES_IN_USE = 5
RELEASES_PER_SERIES = 6
"""Number of releases with the same first part of the version."""


SHARES = {
    PYTHON_MINOR.column: {
        "2.7": 0.004,
        "3.8": 0.06,
        "3.9": 0.11,
        "3.10": 0.17,
        "3.11": 0.2,
        "3.12": 0.22,
        "3.13": 0.14,
        "3.14": 0.066,
        NULL_CATEGORY: 0.03,
    },
    **{one.column: one.sample_shares for one in BREAKDOWNS if one.sample_shares},
}
"""Shares of the categories, by column. `_release_shares` computes those of releases."""


@dataclass(frozen=True, slots=True)
class _Package:
    """The properties of a package that are the same on all days."""

    name: str
    level: float
    """Downloads of an average day at the beginning of 2026."""

    yearly_growth: float
    weekday_strength: float
    mirror_share: float
    weights: Mapping[str, Sequence[float]]
    """Factors of the categories' shares, by column."""

    release_days: int


def _package(rank: int, name: str) -> _Package:
    # Each breakdown has its own random numbers, so that a new one does not change the others.
    random = _random(name)
    least, most = RELEASE_DAYS
    return _Package(
        name=name,
        level=DAILY_DOWNLOADS_AT_RANK_1 / rank**RANK_EXPONENT * (0.8 + 0.4 * random()),
        yearly_growth=YEARLY_GROWTH * random(),
        weekday_strength=0.5 + random(),
        mirror_share=0.01 * random(),
        weights={
            column: [0.6 + 0.8 * one() for one in [_random(f"{name} {column}")] * len(shares)]
            for column, shares in SHARES.items()
        },
        release_days=round(least + (most - least) * _random(f"{name} {VERSION.column}")()),
    )


def _random(seed: str) -> Callable[[], float]:
    return Random(seed).random  # noqa: S311 - the figures are not secret


_PACKAGES = [_package(rank, name) for rank, name in enumerate(PACKAGES, start=1)]


class SampleSource(Source):
    name = "sample"

    def __init__(
        self,
        breakdowns: Iterable[Breakdown] = OPTIONAL_BREAKDOWNS,
        packages: Collection[str] | None = None,
    ) -> None:
        self._columns = columns_with(breakdowns)
        self._packages = [one for one in _PACKAGES if packages is None or one.name in packages]

    def counted_files(self, _: date) -> CountedFiles:
        """Return `artifacts` for all days, because the sample has no step in August 2026."""
        return CountedFiles.ARTIFACTS

    async def read(self, period: Period, _: str | None = None) -> DayRows:
        return DayRows(self._batches(period), columns=self._columns)

    async def _batches(self, period: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
        days = days_of(period)
        yield [
            _sum([_downloads(package, day, self._columns) for day in days])
            for package in self._packages
        ]


def _sum(days: Sequence[PackageDownloads]) -> PackageDownloads:
    """Return the sum of one package's downloads on several days."""
    breakdowns: dict[str, Counter[str]] = {column: Counter() for column in days[0].breakdowns}
    for day in days:
        for column, counts in day.breakdowns.items():
            breakdowns[column].update(counts)
    return PackageDownloads(
        days[0].package,
        sum(day.with_mirrors for day in days),
        sum(day.without_mirrors for day in days),
        breakdowns,
    )


def _downloads(package: _Package, day: date, columns: Collection[str]) -> PackageDownloads:
    seed = f"{package.name} {day}"
    random = _random(seed)
    years = (day - date(2026, 1, 1)).days / 365
    weekday = 1 + (WEEKDAY_SHARES[day.weekday()] - 1) * package.weekday_strength
    noise = 0.96 + 0.08 * random()
    total = int(package.level * (1 + package.yearly_growth) ** years * weekday * noise)
    mirrors = int(2_000 * (0.5 + random()) + total * package.mirror_share)
    breakdowns = {}
    for column, weights in package.weights.items():
        if column in columns:
            shares = map(mul, SHARES[column].values(), weights)
            # The checksum serves as a random number, because creating a generator takes longer.
            bend = 0.2 * (crc32(f"{seed} {column}".encode()) / 2**32) - 0.1
            breakdowns[column] = _divide(total, SHARES[column], shares, bend)
    if VERSION.column in columns:
        releases = _release_shares(package.release_days, day)
        breakdowns[VERSION.column] = _divide(total, releases, releases.values())
    return PackageDownloads(package.name, total + mirrors, total, breakdowns)


def _release_shares(release_days: int, day: date) -> dict[str, float]:
    """Return the shares of the releases in use, latest first. The latest one grows for two weeks,
    and each later release lowers the shares of earlier ones.
    """
    latest, age = divmod((day - FIRST_RELEASE).days, release_days)
    numbers = range(latest, max(latest - RELEASES_IN_USE, -1), -1)
    names = [
        f"{number // RELEASES_PER_SERIES}.{number % RELEASES_PER_SERIES}.0" for number in numbers
    ]
    shares = {name: 0.55**passed for passed, name in enumerate(names)}
    shares[names[0]] *= min((age + 1) / 14, 1.0)
    return shares


def _divide(
    total: int, categories: Iterable[str], shares: Iterable[float], bend: float = 0.0
) -> dict[str, int]:
    """Divide a total into whole counts that add up to it, and omit those that are 0. `bend` shifts
    downloads to earlier categories if it is positive, and to later ones if it is negative.
    """
    ends = list(accumulate(shares))
    bounds = [end / ends[-1] for end in ends]
    counted = [int(total * (bound + bend * bound * (1 - bound))) for bound in bounds]
    counts = map(sub, counted, [0, *counted])
    return {name: count for name, count in zip(categories, counts, strict=True) if count}
