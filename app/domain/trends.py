"""Predicts when a declining share falls below a threshold, by a robust logistic trend.

The share p of a day t follows logit(p) = a + b * t, the usual model of a technology that replaces
another (Fisher and Pry, "A simple substitution model of technological change", 1971). The line is
fitted to the empirical logits of the days:

* Tukey's bisquare weights ignore outliers (Huber and Ronchetti, "Robust Statistics", chapter 7).
  The fit starts at the median slope of all pairs of weeks (Theil and Sen).
* Shares follow the week, so each weekday has its own level.
* Errors of consecutive days are similar. Their correlation increases the standard errors, as for a
  first-order autoregression.
* The interval of the date is Fieller's: all dates on which the line may cross the threshold.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations, pairwise
from math import ceil, floor, log, sqrt
from operator import mul
from statistics import NormalDist, fmean, median
from typing import NamedTuple

LEVEL = 0.9
"""Probability with which the interval contains the date."""

MIN_DAYS = 56
"""Minimum number of days with downloads for a trend."""

MIN_DAILY_DOWNLOADS = 100
"""Minimum mean downloads per day for a fit to days. With less, weeks are fitted."""

MIN_WEEKLY_DOWNLOADS = 20
"""Minimum mean downloads per week for a trend."""

MIN_SLOPE_ERRORS = 4.0
"""Minimum ratio of a decline to its standard error. With less, the share counts as flat."""

MAX_DAYS_AHEAD = 5 * 365

SHARE_DAYS = 30
"""Number of the latest days that determine the present share."""

MISFIT_ERRORS = 3.0
"""Minimum ratio of the median residual of the latest days to its error for a misfit."""

MISFIT_DAYS = 0.85
"""Minimum part of the latest days on one side of the line for a misfit, as of a decline that
flattens.
"""

_WEEK = 7
_BISQUARE = 4.685
"""Size of a residual, in scales, from which on its weight is 0. It is 95% efficient for normal
errors.
"""


_MEDIAN_OF_NORMAL = 0.6745
"""Median of the absolute value of a normal variable with the scale 1."""

_MIN_SCALE = 1e-9
"""Smallest scale of residuals. Without noise they would be 0."""

_MAX_CORRELATION = 0.95

_MAX_STEPS = 30
_SLOPE_TOLERANCE = 1e-9


class DayShare(NamedTuple):
    """Downloads of a part and of the whole on a day."""

    day: date
    part: int
    whole: int


class Prediction(NamedTuple):
    """The day on which a share falls below a threshold, with its interval, or the reason why there
    is none.
    """

    day: date | None = None
    earliest: date | None = None
    latest: date | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through the logits of a share. The level is that of the middle of the days, so that
    its error does not depend on that of the slope.
    """

    latest: date
    share: float
    """The share of the latest `SHARE_DAYS` days."""

    is_logistic: bool
    """False if the latest days are far from the line on the same side."""

    center: float
    """The middle of the days, in days from the latest one. It is negative."""

    level: float
    slope: float
    level_error: float
    slope_error: float
    quantile: float
    """Number of standard errors on each side of an interval."""

    @property
    def is_declining(self) -> bool:
        return self.slope < 0 and -self.slope >= MIN_SLOPE_ERRORS * self.slope_error

    def falls_below(self, threshold: float) -> Prediction:
        """Predict the first day on which the share is below the threshold."""
        distance = _logit(threshold) - self.level
        if self.share < threshold:
            return Prediction(reason=f"The share is already below {threshold:.0%}.")
        if not self.is_logistic:
            return Prediction(reason="The share does not follow a logistic trend.")
        if self.level - self.slope * self.center <= _logit(threshold):
            return Prediction(reason=f"The share is falling below {threshold:.0%} at present.")
        if not self.is_declining:
            return Prediction(reason="The share is not clearly declining.")
        crossing = self.center + distance / self.slope
        if crossing > MAX_DAYS_AHEAD:
            return Prediction(reason=f"The date is more than {MAX_DAYS_AHEAD // 365} years ahead.")
        # The roots of (slope * x - distance)² = quantile² * (level_error² + slope_error² * x²).
        square = self.quantile**2
        a = self.slope**2 - square * self.slope_error**2
        b = self.slope * distance
        c = distance**2 - square * self.level_error**2
        half = sqrt(max(b * b - a * c, 0.0))
        return Prediction(
            self._day(ceil(crossing)),
            self._day(floor(self.center + (b - half) / a)),
            self._day(ceil(self.center + (b + half) / a)),
        )

    def _day(self, days: int) -> date:
        return self.latest + timedelta(days=days)


def fit_trend(shares: Sequence[DayShare]) -> Trend | str:
    """Fit a trend to the shares of days, which are in order. Return a text with the reason if the
    data is not sufficient.
    """
    shares = [one for one in shares if one.whole]
    if len(shares) < MIN_DAYS:
        return f"There are fewer than {MIN_DAYS} days with comparable figures."
    latest = shares[-1].day
    daily = sum(one.part for one in shares) / len(shares)
    days = 1 if daily >= MIN_DAILY_DOWNLOADS else _WEEK
    if daily * days < MIN_WEEKLY_DOWNLOADS:
        return "The version has too few downloads."
    xs, ys = _logits(shares, latest, days)
    recent = [one for one in shares if (latest - one.day).days < SHARE_DAYS]
    share = sum(one.part for one in recent) / sum(one.whole for one in recent)
    return _fit(latest, share, xs, ys, is_daily=days == 1)


def _logits(shares: Sequence[DayShare], latest: date, days: int) -> tuple[list[float], list[float]]:
    """Return the positions of periods of so many days, and the empirical logits of their shares."""
    periods: defaultdict[int, list[DayShare]] = defaultdict(list)
    for one in shares:
        periods[(latest - one.day).days // days].append(one)
    xs, ys = [], []
    for period in periods.values():
        part = sum(one.part for one in period)
        rest = sum(one.whole for one in period) - part
        xs.append(fmean((one.day - latest).days for one in period))
        ys.append(log((part + 0.5) / (rest + 0.5)))
    return xs, ys


def _fit(latest: date, share: float, xs: list[float], ys: list[float], *, is_daily: bool) -> Trend:
    slope = _median_slope(xs, ys)
    if is_daily:
        ys = _without_weekdays(xs, ys, slope)
    center = fmean(xs)
    xs = [x - center for x in xs]
    level, slope = _bisquare_line(xs, ys, slope)
    residuals = _residuals(xs, ys, level, slope)
    squares = _squares(residuals)
    influences = [
        r * (1 - u) ** 2 if u < 1 else 0.0 for r, u in zip(residuals, squares, strict=True)
    ]
    response = fmean((1 - u) * (1 - 5 * u) if u < 1 else 0.0 for u in squares)
    freedom = len(xs) - 2
    variance = sum(one * one for one in influences) / freedom / max(response, 0.1) ** 2
    # Errors that last for several days make fewer independent observations.
    correlation = _autocorrelation(influences)
    independent = (1 - correlation) / (1 + correlation)
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return Trend(
        latest=latest,
        share=share,
        is_logistic=_is_logistic([x + center for x in xs], residuals),
        center=center,
        level=level,
        slope=slope,
        level_error=sqrt(variance / len(xs) / independent),
        slope_error=sqrt(variance / sum(x * x for x in xs) / independent),
        # The quantile of Student's distribution, expanded at that of the normal distribution.
        quantile=z + (z**3 + z) / (4 * max(freedom * independent, 3.0)),
    )


def _median_slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the median slope of all pairs of weeks, each with the median of its values."""
    weeks: defaultdict[int, list[float]] = defaultdict(list)
    for x, y in zip(xs, ys, strict=True):
        weeks[int(x // _WEEK)].append(y)
    medians = [(week * _WEEK, median(values)) for week, values in weeks.items()]
    return median((y - z) / (x - v) for (x, y), (v, z) in combinations(medians, 2))


def _without_weekdays(xs: Sequence[float], ys: Sequence[float], slope: float) -> list[float]:
    """Shift each weekday to the level of the median weekday."""
    weekdays: defaultdict[float, list[float]] = defaultdict(list)
    for x, y in zip(xs, ys, strict=True):
        weekdays[x % _WEEK].append(y - slope * x)
    levels = {weekday: median(values) for weekday, values in weekdays.items()}
    middle = median(levels.values())
    return [y - levels[x % _WEEK] + middle for x, y in zip(xs, ys, strict=True)]


def _bisquare_line(xs: Sequence[float], ys: Sequence[float], slope: float) -> tuple[float, float]:
    """Return level and slope of the line that a fit with bisquare weights converges to."""
    level = median(_residuals(xs, ys, 0.0, slope))
    for _ in range(_MAX_STEPS):
        squares = _squares(_residuals(xs, ys, level, slope))
        weights = [(1 - u) ** 2 if u < 1 else 0.0 for u in squares]
        total = sum(weights)
        x_mean = sum(map(mul, weights, xs)) / total
        y_mean = sum(map(mul, weights, ys)) / total
        weighted = [w * (x - x_mean) for w, x in zip(weights, xs, strict=True)]
        before, slope = slope, sum(map(mul, weighted, ys)) / sum(map(mul, weighted, xs))
        level = y_mean - slope * x_mean
        if abs(slope - before) < _SLOPE_TOLERANCE:
            break
    return level, slope


def _residuals(xs: Sequence[float], ys: Sequence[float], level: float, slope: float) -> list[float]:
    return [y - level - slope * x for x, y in zip(xs, ys, strict=True)]


def _is_logistic(xs: Sequence[float], residuals: Sequence[float]) -> bool:
    """Return False if nearly all of the latest days are far from the line on the same side."""
    recent = [r for x, r in zip(xs, residuals, strict=True) if x > -SHARE_DAYS]
    middle = median(recent)
    scale = max(median(map(abs, residuals)) / _MEDIAN_OF_NORMAL, _MIN_SCALE)
    same_side = fmean(one * middle > 0 for one in recent)
    is_far = abs(middle) > MISFIT_ERRORS * scale / sqrt(len(recent))
    return not (is_far and same_side >= MISFIT_DAYS)


def _squares(residuals: Sequence[float]) -> list[float]:
    """Return the squared residuals in units in which outliers are 1 or more."""
    scale = max(median(map(abs, residuals)) / _MEDIAN_OF_NORMAL, _MIN_SCALE)
    return [(one / (_BISQUARE * scale)) ** 2 for one in residuals]


def _autocorrelation(errors: Sequence[float]) -> float:
    """Return the correlation of consecutive errors around a line, or 0 if it is negative. It is
    increased by its own standard error, so that intervals are too wide rather than too narrow.
    """
    squares = sum(one * one for one in errors)
    products = sum(one * following for one, following in pairwise(errors))
    correlation = products / squares if squares else 0.0
    # Estimates from residuals of a line are too small by about the first of these.
    correlation += (2 + 4 * correlation) / len(errors) + 1 / sqrt(len(errors))
    return min(max(correlation, 0.0), _MAX_CORRELATION)


def _logit(share: float) -> float:
    return log(share / (1 - share))
