"""Downloads of made-up packages in the proportions of real ones.

Monthly downloads decrease with the rank as on PyPI. From `HEAD_PACKAGES` on, every package has a
few per day. A package's figures of a day depend only on the seed, the day and the rank, so that the
first 2,000 of 20,000 packages are the same as in a database of 2,000.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from app.domain.breakdowns import INSTALLER, columns_with
from app.domain.downloads import PackageDownloads
from app.domain.months import Period, first_day
from app.ingest.sources.source import DayRows, Source

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

SEED = 2018

LAST_DAY = date(2026, 6, 30)
"""Last day of the data. It is the same for every run, so that data can be reused between runs."""

MONTHLY_DOWNLOADS_AT_RANK = {1: 1.8e9, 1_000: 17e6, 10_000: 150e3}
"""Monthly downloads at some ranks. Between them the logarithm of the downloads is interpolated
linearly over the logarithm of the rank.
"""

HEAD_PACKAGES = 10_000

DAILY_DOWNLOADS_OF_TAIL = 5.0

DAYS_PER_MONTH = 30

WEEKDAY_SHARES = np.array([1.08, 1.14, 1.15, 1.13, 1.06, 0.72, 0.72])
"""Downloads of each weekday from Monday on, as ratios to their mean."""

DAILY_NOISE = 0.05
"""Maximum deviation of a package's day from the average of its weekday."""

DAILY_MIRROR_DOWNLOADS = 2.0
"""Mean downloads of a package by mirrors per day, besides a share of its other downloads."""

MIRROR_SHARE = 0.005

PYTHON_MINOR_SHARES = {
    "3.12": 0.235,
    "3.11": 0.21,
    "3.10": 0.155,
    "3.13": 0.145,
    "3.9": 0.105,
    "3.8": 0.05,
    "3.7": 0.03,
    "3.14": 0.025,
    "null": 0.015,
    "2.7": 0.015,
    "3.6": 0.012,
    "3.15": 0.002,
    "3.5": 0.001,
}
INSTALLER_SHARES = {"pip": 0.79, "uv": 0.16, "poetry": 0.02, "requests": 0.02, "browser": 0.01}
SYSTEM_SHARES = {"linux": 0.86, "windows": 0.07, "darwin": 0.045, "null": 0.024, "other": 0.001}

SHARES = {
    "python_minor": PYTHON_MINOR_SHARES,
    "system": SYSTEM_SHARES,
    "installer": INSTALLER_SHARES,
}

WEIGHT_SPREAD = 0.4
"""Maximum deviation of a package's share of a category from the share of all packages."""

BATCH_PACKAGES = 2_000
"""Number of packages per batch. Each batch has a random generator of its own."""


def package_name(rank: int) -> str:
    return f"synthetic-{rank}"


def monthly_downloads(ranks: Integers) -> Floats:
    """Return the expected downloads of the model, known mirrors excluded."""
    anchors = np.log(list(MONTHLY_DOWNLOADS_AT_RANK))
    levels = np.log(list(MONTHLY_DOWNLOADS_AT_RANK.values()))
    head: Floats = np.exp(np.interp(np.log(ranks), anchors, levels))
    return np.where(ranks <= HEAD_PACKAGES, head, DAILY_DOWNLOADS_OF_TAIL * DAYS_PER_MONTH)


def days_before(last: date, count: int) -> list[date]:
    """Return `count` days in order, ending with `last`."""
    return [last - timedelta(days=passed) for passed in reversed(range(count))]


class SyntheticSource(Source):
    """Days of downloads by Python version and system, and if requested by installer too."""

    name = "synthetic"

    def __init__(self, packages: int, *, installers: bool = False) -> None:
        self._packages = packages
        self._installers = installers

    async def read(self, day: Period, _: str | None) -> DayRows:
        columns = columns_with([INSTALLER] if self._installers else [])
        return DayRows(self._batches(day), columns=columns)

    async def _batches(self, period: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
        for batch in batches(self._packages, first_day(period), installers=self._installers):
            yield batch


def batches(
    packages: int, day: date, *, installers: bool = False
) -> Iterator[list[PackageDownloads]]:
    """Yield a day's packages in the order of their ranks, without those that have no download."""
    for number, start in enumerate(range(0, packages, BATCH_PACKAGES)):
        size = min(BATCH_PACKAGES, packages - start)
        yield _batch(number, start, size, day, installers=installers)


def _batch(
    number: int, start: int, size: int, day: date, *, installers: bool
) -> list[PackageDownloads]:
    # Always generate a whole batch, so that the first packages do not depend on `size`.
    ranks = start + np.arange(1, BATCH_PACKAGES + 1)
    random = np.random.default_rng([SEED, day.toordinal(), number])
    noise = 1 + DAILY_NOISE * random.uniform(-1, 1, BATCH_PACKAGES)
    expected = monthly_downloads(ranks) / DAYS_PER_MONTH * WEEKDAY_SHARES[day.weekday()] * noise
    downloads = random.poisson(expected)
    mirrors = random.poisson(DAILY_MIRROR_DOWNLOADS + MIRROR_SHARE * expected)
    # The properties of a package that are the same on all days.
    character = np.random.default_rng([SEED, number])
    divided = {
        column: (shares, _divide(downloads, shares, character, random))
        for column, shares in SHARES.items()
        if column != "installer" or installers
    }
    return [
        PackageDownloads(
            package_name(rank),
            direct + mirrored,
            direct,
            {
                column: _by_category(shares, counts[place].tolist())
                for column, (shares, counts) in divided.items()
            },
        )
        for place, (rank, direct, mirrored) in enumerate(
            zip(
                ranks[:size].tolist(),
                downloads[:size].tolist(),
                mirrors[:size].tolist(),
                strict=True,
            )
        )
        if direct + mirrored
    ]


def _divide(
    totals: Integers,
    shares: Mapping[str, float],
    character: np.random.Generator,
    random: np.random.Generator,
) -> Integers:
    """Divide each total into categories. The result has a row per package."""
    spread = character.uniform(1 - WEIGHT_SPREAD, 1 + WEIGHT_SPREAD, (len(totals), len(shares)))
    weights = np.array(list(shares.values())) * spread
    return random.multinomial(totals, weights / weights.sum(axis=1, keepdims=True))


def _by_category(categories: Mapping[str, float], counts: Sequence[int]) -> dict[str, int]:
    return {name: count for name, count in zip(categories, counts, strict=True) if count}
