"""The known days: those that are stored by day, and those that are stored in months."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import NamedTuple

from app.domain.months import StoredMonth, days_of_month, month_of


class MonthDownloads(NamedTuple):
    """A package's downloads in the known days of a month."""

    month: date
    with_mirrors: int
    without_mirrors: int
    rank: int | None
    """Rank in the stored month, or None if the month is not stored, for `__all__` and without
    downloads.
    """


def days_in(months: Iterable[StoredMonth]) -> list[date]:
    """Return the days whose downloads stored months contain."""
    return [
        day for one in months for day in days_of_month(one.month) if day not in one.missing_days
    ]


@dataclass(frozen=True)
class History:
    """All days of which downloads are known. Each month is read from one of the two tables."""

    days: Sequence[date]
    """Days to read from `daily_downloads`, in order, unless the month is in `used_months`."""

    months: Sequence[StoredMonth] = ()
    """All stored months, in order."""

    @cached_property
    def used_months(self) -> dict[date, StoredMonth]:
        """Months to read from `monthly_downloads`: those that have more days there."""
        stored_days = Counter(map(month_of, self.days))
        return {one.month: one for one in self.months if one.days > stored_days[one.month]}

    @cached_property
    def known_days(self) -> list[date]:
        """All days of which downloads are known, in order."""
        by_day = [day for day in self.days if month_of(day) not in self.used_months]
        return sorted(days_in(self.used_months.values()) + by_day)

    @cached_property
    def days_by_month(self) -> Counter[date]:
        """Number of known days of each month, by the month's first day."""
        return Counter(map(month_of, self.known_days))

    @cached_property
    def missing_ranges(self) -> list[tuple[date, date]]:
        """First and last days of the gaps between known days, latest first."""
        one_day = timedelta(days=1)
        gaps = [
            (before + one_day, after - one_day)
            for before, after in zip(self.known_days, self.known_days[1:], strict=False)
            if after - before > one_day
        ]
        return gaps[::-1]

    def complete_months(self, first: date, last: date) -> list[StoredMonth]:
        """Return the used months between two days that lack no day."""
        return [
            one
            for one in self.used_months.values()
            if not one.missing_days and first <= one.month and one.period.last <= last
        ]
