"""What the benchmarks measure with is the same in every run, consistent, and as skewed as PyPI."""

from datetime import timedelta
from itertools import islice
from statistics import mean

import numpy as np
import pytest

from app.domain.downloads import PackageDownloads
from benchmarks.data import (
    BATCH_PACKAGES,
    DAILY_DOWNLOADS_OF_TAIL,
    DAYS_PER_MONTH,
    HEAD_PACKAGES,
    LAST_DAY,
    batches,
    days_before,
    monthly_downloads,
    package_name,
)
from benchmarks.memory import ENDPOINTS, REQUESTS_PER_NEW_URL, sequence
from tests.days import fault_of


def _day(packages: int, days_ago: int = 0) -> list[PackageDownloads]:
    return [
        row for batch in batches(packages, LAST_DAY - timedelta(days=days_ago)) for row in batch
    ]


def test_a_day_is_the_same_in_every_run_and_unlike_another() -> None:
    assert _day(100) == _day(100)
    assert _day(100) != _day(100, days_ago=7)


def test_a_day_of_fewer_packages_is_the_beginning_of_a_day_of_more() -> None:
    more = _day(BATCH_PACKAGES + 100)
    for packages in (10, BATCH_PACKAGES, BATCH_PACKAGES + 50):
        fewer = _day(packages)
        assert fewer == more[: len(fewer)]


def test_the_pipeline_accepts_every_row() -> None:
    day = _day(HEAD_PACKAGES + 2 * BATCH_PACKAGES)
    assert len({row.package for row in day}) == len(day)
    assert [row for row in day if fault_of(row)] == []


@pytest.mark.parametrize(
    ("rank", "downloads"), [(1, 1_800_000_000), (1_000, 17_000_000), (10_000, 150_000)]
)
def test_a_month_has_the_downloads_of_the_real_rank(rank: int, downloads: float) -> None:
    (expected,) = monthly_downloads(np.array([rank]))
    assert expected == pytest.approx(downloads)
    # One package of a batch is drawn like the others; four weeks have each weekday as often.
    name = package_name(rank)
    drawn = mean(
        next(row.without_mirrors for row in _day(rank, days_ago) if row.package == name)
        for days_ago in range(28)
    )
    assert drawn * DAYS_PER_MONTH == pytest.approx(downloads, rel=0.05)


def test_between_those_ranks_a_tenfold_rank_has_an_even_share() -> None:
    at_10, at_100, at_1000 = monthly_downloads(np.array([10, 100, 1_000]))
    assert at_10 / at_100 == pytest.approx(at_100 / at_1000)


def test_the_tail_has_a_handful_a_day_in_few_categories() -> None:
    tail = _day(HEAD_PACKAGES + 2 * BATCH_PACKAGES)[HEAD_PACKAGES:]
    assert mean(row.without_mirrors for row in tail) == pytest.approx(
        DAILY_DOWNLOADS_OF_TAIL, rel=0.2
    )
    assert mean(len(row.breakdowns["python_minor"]) for row in tail) < 5
    assert mean(len(row.breakdowns["python_minor"]) for row in _day(100)) > 12


def test_days_are_in_order_and_end_with_the_last() -> None:
    days = days_before(LAST_DAY, 180)
    assert days == sorted(set(days))
    assert (len(days), days[-1]) == (180, LAST_DAY)


def test_memory_is_measured_with_every_endpoint_and_argument() -> None:
    new = islice(sequence(20_000), 0, 2_000 * REQUESTS_PER_NEW_URL, REQUESTS_PER_NEW_URL)
    assert {path.split("/", 4)[4] for path in new} == set(ENDPOINTS)
