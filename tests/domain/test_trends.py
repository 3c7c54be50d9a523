"""Predictions of when a share falls below a threshold, from simulated series."""

from collections import Counter
from datetime import date, timedelta
from math import ceil, exp, log, sqrt
from random import Random

import pytest

from app.domain.trends import MAX_DAYS_AHEAD, MIN_DAYS, DayShare, Trend, fit_trend

LATEST = date(2026, 11, 20)
SEEDS = range(100)


def _shares(
    seed: int,
    *,
    share: float = 0.18,
    slope: float = -0.006,
    days: int = 180,
    downloads: int = 20_000,
    noise: float = 0.08,
    persistence: float = 0.0,
    weekend: float = 0.0,
    outliers: float = 0.0,
) -> list[DayShare]:
    """Return binomial counts of a share that begins at `share`. Each day's logit has a normal error
    that persists partly until the next day, and that of a weekend is lower. Some days have several
    times as many downloads of the part.
    """
    random = Random(seed)
    result, error = [], 0.0
    for number in range(days):
        day = LATEST - timedelta(days=days - 1 - number)
        is_weekend = day.weekday() >= 5
        error = persistence * error + random.gauss(0, noise) * sqrt(1 - persistence**2)
        logit = log(share / (1 - share)) + slope * number + error - weekend * is_weekend
        chance = 1 / (1 + exp(-logit))
        whole = int(downloads * random.lognormvariate(0, 0.1) * (0.6 if is_weekend else 1))
        part = round(random.gauss(whole * chance, sqrt(whole * chance * (1 - chance))))
        burst = int(part * random.uniform(1, 7)) if random.random() < outliers else 0
        result.append(DayShare(day, max(part, 0) + burst, whole + burst))
    return result


def _true_day(
    threshold: float, share: float = 0.18, slope: float = -0.006, days: int = 180, **_: float
) -> date:
    passed = (log(threshold / (1 - threshold)) - log(share / (1 - share))) / slope
    return LATEST + timedelta(days=ceil(passed) - days + 1)


@pytest.mark.parametrize(
    "simulation",
    [
        {},
        {"noise": 0.25},
        {"persistence": 0.6},
        {"weekend": 0.3},
        {"outliers": 0.1},
        {"noise": 0.1, "persistence": 0.5, "weekend": 0.2, "outliers": 0.05},
        {"downloads": 400, "noise": 0.05},
        {"downloads": 1000, "outliers": 0.05},
        {"days": 90},
        {"share": 0.5, "slope": -0.015},
        {"share": 0.08, "slope": -0.002},
    ],
    ids=str,
)
def test_intervals_contain_the_true_date(simulation: dict[str, float]) -> None:
    within: Counter[float] = Counter()
    for seed in SEEDS:
        trend = fit_trend(_shares(seed, **simulation))  # type: ignore[arg-type]
        assert isinstance(trend, Trend)
        for threshold in (0.05, 0.01):
            found = trend.falls_below(threshold)
            assert found.reason is None
            assert found.day
            assert found.earliest
            assert found.latest
            assert found.earliest <= found.day <= found.latest
            true_day = _true_day(threshold, **simulation)  # type: ignore[arg-type]
            within[threshold] += found.earliest <= true_day <= found.latest
    assert min(within.values()) >= 85


@pytest.mark.parametrize(
    "simulation",
    [
        {"slope": 0.0},
        {"slope": 0.0, "noise": 0.3},
        {"slope": 0.0, "persistence": 0.6},
        {"slope": 0.0, "weekend": 0.3, "outliers": 0.1},
        {"slope": 0.005},
        {"slope": 0.0, "noise": 0.0, "downloads": 10**9},
    ],
    ids=str,
)
def test_flat_and_rising_shares_have_no_date(simulation: dict[str, float]) -> None:
    for seed in SEEDS:
        trend = fit_trend(_shares(seed, **simulation))  # type: ignore[arg-type]
        assert isinstance(trend, Trend)
        for threshold in (0.05, 0.01):
            found = trend.falls_below(threshold)
            assert found[:3] == (None, None, None)
            assert found.reason


def test_short_and_small_series_have_no_trend() -> None:
    few = "There are fewer than 56 days with comparable figures."
    assert fit_trend([]) == few
    assert fit_trend(_shares(1, days=MIN_DAYS - 1)) == few
    assert isinstance(fit_trend(_shares(1, days=MIN_DAYS)), Trend)
    empty = [one._replace(part=0, whole=0) for one in _shares(1)]
    assert fit_trend(empty) == few
    assert fit_trend(_shares(1, downloads=10)) == "The version has too few downloads."


def test_shares_below_the_threshold_and_far_above_it() -> None:
    trend = fit_trend(_shares(1, share=0.03))
    assert isinstance(trend, Trend)
    assert trend.falls_below(0.05).reason == "The share is already below 5%."
    trend = fit_trend(_shares(1, share=0.9, slope=-0.002))
    assert isinstance(trend, Trend)
    assert trend.falls_below(0.01).reason == "The date is more than 5 years ahead."
    near = trend.falls_below(0.5)
    assert near.day
    assert (near.day - LATEST).days < MAX_DAYS_AHEAD


@pytest.mark.parametrize(("first", "last"), [(0.2, 0.06), (0.15, 0.055)])
def test_a_decline_that_flattens_is_no_trend(first: float, last: float) -> None:
    """The share of the latest days decides whether it is already below a threshold."""
    for seed in SEEDS:
        random = Random(seed)
        shares = []
        for number in range(180):
            share = last + (first - last) * exp(-number / 30)
            day = LATEST - timedelta(days=179 - number)
            shares.append(DayShare(day, round(20_000 * share * random.gauss(1, 0.03)), 20_000))
        trend = fit_trend(shares)
        assert isinstance(trend, Trend)
        for threshold in (0.05, 0.01):
            found = trend.falls_below(threshold)
            assert found == (None, None, None, "The share does not follow a logistic trend.")


def test_a_share_that_falls_below_the_threshold_at_present() -> None:
    trend = fit_trend(_shares(1, noise=0.01))
    assert isinstance(trend, Trend)
    assert trend.falls_below(0.071).reason == "The share is falling below 7% at present."


def test_exact_declines_have_narrow_intervals() -> None:
    """Series without noise and with missing days are no exception."""
    exact = []
    for number in range(180):
        chance = 1 / (1 + exp(-(log(0.18 / 0.82) - 0.006 * number)))
        day = LATEST - timedelta(days=179 - number)
        exact.append(DayShare(day, round(10**12 * chance), 10**12))
    for shares in (exact, exact[::3]):
        trend = fit_trend(shares)
        assert isinstance(trend, Trend)
        found = trend.falls_below(0.05)
        assert found.day
        assert found.earliest
        assert found.latest
        assert abs((found.day - _true_day(0.05)).days) <= 1
        assert (found.latest - found.earliest).days <= 2
