"""Zeros where there is nothing, and sums of weeks and months: properties of any series."""

from collections import Counter
from datetime import date, timedelta
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.downloads import Series
from app.domain.series import (
    Interval,
    complete_periods,
    fill_with_zero,
    most_downloaded,
    rolling_means,
    sum_by,
)

FIRST = date(2026, 1, 28)


@st.composite
def published_series(draw: st.DrawFn) -> tuple[Series, list[date]]:
    """A series, and the days that are published: some are missing."""
    span = [FIRST + timedelta(days=ago) for ago in range(draw(st.integers(1, 100)))]
    missing = draw(st.sets(st.sampled_from(span), max_size=3))
    days = [day for day in span if day not in missing] or span[:1]
    series = {}
    for category in draw(st.sets(st.sampled_from("abc"))):
        with_downloads = sorted(draw(st.sets(st.sampled_from(days), min_size=1)))
        series[category] = [(day, draw(st.integers(1, 10**9))) for day in with_downloads]
    return series, days


def _total(items: list[tuple[date, int]]) -> int:
    return sum(downloads for _, downloads in items)


@given(published_series())
def test_filling_changes_no_sum(example: tuple[Series, list[date]]) -> None:
    series, days = example
    filled = fill_with_zero(series, days)
    assert filled.keys() == series.keys()
    for category, items in filled.items():
        assert [day for day, _ in items] == days
        assert _total(items) == _total(series[category])
        assert [item for item in items if item[1]] == series[category]


@given(published_series())
def test_weeks_are_sums_of_seven_published_days(example: tuple[Series, list[date]]) -> None:
    series, days = example
    weeks = {
        day - timedelta(days=day.isocalendar().weekday - 1): list(days_of_week)
        for _, group in groupby(days, key=lambda day: day.isocalendar()[:2])
        for days_of_week in [list(group)]
        for day in days_of_week[:1]
        if len(days_of_week) == 7
    }
    _check_sums(Interval.WEEK, series, days, weeks)


@given(published_series())
def test_months_are_sums_of_all_their_days(example: tuple[Series, list[date]]) -> None:
    series, days = example
    months = {}
    for year_and_month, group in groupby(days, key=lambda day: (day.year, day.month)):
        days_of_month = list(group)
        lengths = {1: 31, 2: 28, 3: 31, 4: 30, 5: 31}
        if len(days_of_month) == lengths[year_and_month[1]]:
            months[days_of_month[0]] = days_of_month
    _check_sums(Interval.MONTH, series, days, months)


def _check_sums(
    interval: Interval, series: Series, days: list[date], periods: dict[date, list[date]]
) -> None:
    assert complete_periods(interval, days) == list(periods)
    summed = sum_by(interval, series, periods)
    for category, items in series.items():
        downloads = dict(items)
        expected = [
            (first, sum(downloads.get(day, 0) for day in of_period))
            for first, of_period in periods.items()
            if any(day in downloads for day in of_period)
        ]
        assert summed.get(category, []) == expected
    filled = sum_by(interval, fill_with_zero(series, days), periods)
    for category in filled:
        # With zeros, each whole period is there.
        assert [first for first, _ in filled[category]] == list(periods)


@given(published_series())
def test_summing_by_day_changes_nothing(example: tuple[Series, list[date]]) -> None:
    series, days = example
    assert sum_by(Interval.DAY, series, days) == series


@pytest.mark.parametrize(
    ("interval", "day", "first"),
    [
        # A week goes by its Monday, whatever the year; February may have 29 days.
        (Interval.WEEK, date(2027, 1, 1), date(2026, 12, 28)),
        (Interval.MONTH, date(2028, 2, 29), date(2028, 2, 1)),
        (Interval.MONTH, date(2026, 12, 31), date(2026, 12, 1)),
    ],
)
def test_edges_of_the_calendar(interval: Interval, day: date, first: date) -> None:
    days = [first + timedelta(days=passed) for passed in range(31)]
    periods = complete_periods(interval, days)
    assert sum_by(interval, {"all": [(day, 5)]}, periods) == {"all": [(first, 5)]}


@given(published_series(), st.integers(2, 90), st.integers(0, 100))
def test_rolling_means_equal_a_naive_implementation(
    example: tuple[Series, list[date]], span: int, skipped: int
) -> None:
    series, days = example
    first = FIRST + timedelta(days=skipped)
    means = rolling_means(series, days, span, first)
    filled = rolling_means(fill_with_zero(series, days), days, span, first)
    for category, items in series.items():
        downloads = dict(items)
        expected = []
        for day in days:
            within = [day - timedelta(days=ago) for ago in range(span)]
            published = [one for one in within if one in days]
            if day >= first and len(published) >= span / 2:
                counts = [downloads.get(one, 0) for one in published]
                expected.append((day, round(sum(counts) / len(counts)), sum(counts)))
        assert filled.get(category, []) == [item[:2] for item in expected]
        assert means.get(category, []) == [item[:2] for item in expected if item[2]]
    assert all(means.values())


@given(published_series(), st.integers(1, 4), st.booleans())
def test_the_most_downloaded_and_the_rest_add_up(
    example: tuple[Series, list[date]], count: int, has_other: bool
) -> None:
    """Day by day, whether or not there were others before."""
    series, _ = example
    if has_other and "c" in series:
        series = {category if category != "c" else "other": of for category, of in series.items()}
    shown = most_downloaded(series, count)
    assert _by_day(shown) == _by_day(series)
    kept = shown.keys() - {"other"}
    assert len(kept) <= count
    assert all(shown[category] == series[category] for category in kept)
    left_out = series.keys() - kept - {"other"}
    assert bool(left_out) <= (len(kept) == count)
    for category in left_out:
        assert all(_total(series[one]) >= _total(series[category]) for one in kept)
    assert all(items == sorted(items) for items in shown.values())


def _by_day(series: Series) -> Counter[date]:
    return Counter(
        {
            day: sum(dict(items).get(day, 0) for items in series.values())
            for items in series.values()
            for day, _ in items
        }
    )


def test_equal_categories_are_chosen_by_name() -> None:
    series = {name: [(FIRST, 5)] for name in ("1.9", "1.10", "2.0")}
    assert most_downloaded(series, 2) == {
        "1.10": [(FIRST, 5)],
        "1.9": [(FIRST, 5)],
        "other": [(FIRST, 5)],
    }
