"""Operations on time series: fill with zeros, sum, average, select categories."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import date, timedelta
from itertools import accumulate

from app.domain.breakdowns import OTHER_CATEGORY
from app.domain.choice import Choice
from app.domain.downloads import Series


class Interval(Choice):
    DAY = "day"
    WEEK = "week"
    """Week of ISO 8601, from Monday to Sunday."""

    MONTH = "month"


def fill_with_zero(series: Series, days: Sequence[date]) -> Series:
    """Add an item of 0 to each category for each published day without an item."""
    filled = {}
    for category, items in series.items():
        downloads = dict(items)
        filled[category] = [(day, downloads.get(day, 0)) for day in days]
    return filled


def complete_periods(interval: Interval, days: Sequence[date]) -> list[date]:
    """Return the first days of the weeks or months of which all days are among `days`. The sums of
    others would be too small.
    """
    published = Counter(_first_day(interval, day) for day in days)
    return [
        first for first, count in published.items() if count == _number_of_days(interval, first)
    ]


def sum_by(interval: Interval, series: Series, periods: Collection[date]) -> Series:
    """Sum the weeks or months that begin with these days. Other downloads are omitted."""
    days = {day for items in series.values() for day, _ in items}
    first_days = {day: _first_day(interval, day) for day in days}
    summed = {}
    for category, items in series.items():
        sums: Counter[date] = Counter()
        for day, downloads in items:
            sums[first_days[day]] += downloads
        within = [(first, downloads) for first, downloads in sums.items() if first in periods]
        if within:
            summed[category] = within
    return summed


def rolling_means(series: Series, days: Sequence[date], span_days: int, first: date) -> Series:
    """Return the rounded mean of each published day from `first` on and the days before it, which
    together are `span_days` days. `days` are the published days, including those before `first`.

    A mean is that of the published days of the span, on which days without an item count as 0. It
    is omitted if fewer than half of the span is published, or if no day of the span has an item.
    """
    spans = [
        (day, bisect_left(days, day - timedelta(days=span_days - 1)), end)
        for end, day in enumerate(days, start=1)
        if day >= first
    ]
    spans = [(day, start, end) for day, start, end in spans if 2 * (end - start) >= span_days]
    averaged = {}
    for category, items in series.items():
        downloads = dict(items)
        sums = list(accumulate((downloads.get(day, 0) for day in days), initial=0))
        means = [
            (day, round((sums[end] - sums[start]) / (end - start)))
            for day, start, end in spans
            if sums[end] > sums[start] or day in downloads
        ]
        if means:
            averaged[category] = means
    return averaged


class SeriesSum:
    """Sum of several series, to which they are added one by one."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, Counter[date]] = defaultdict(Counter)

    def add(self, series: Series) -> None:
        for category, items in series.items():
            self._sums[category].update(dict(items))

    @property
    def items(self) -> int:
        """Number of items of the sum."""
        return sum(map(len, self._sums.values()))

    @property
    def series(self) -> Series:
        return {category: sorted(sums.items()) for category, sums in self._sums.items()}


def most_downloaded(series: Series, count: int, other: str = OTHER_CATEGORY) -> Series:
    """Return the `count` categories with the most downloads, and the sum of the rest as `other`."""
    totals = {
        category: sum(downloads for _, downloads in items)
        for category, items in series.items()
        if category != other
    }
    kept = sorted(totals, key=lambda category: (-totals[category], category))[:count]
    rest: Counter[date] = Counter()
    for category in series.keys() - set(kept):
        for day, downloads in series[category]:
            rest[day] += downloads
    shown = {category: series[category] for category in kept}
    return shown | {other: sorted(rest.items())} if rest else shown


def _first_day(interval: Interval, day: date) -> date:
    if interval is Interval.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if interval is Interval.MONTH else day


def _number_of_days(interval: Interval, first: date) -> int:
    if interval is Interval.MONTH:
        following = (first + timedelta(days=31)).replace(day=1)
        return (following - first).days
    return 7 if interval is Interval.WEEK else 1
