"""Calendar months, each identified by its first day, and the form in which they are stored.

A month's counts are stored as JSON, like those of a day, but with fewer bytes: as a list of the
counts in the order of the month's categories, without the zeros at its end. For example, with the
categories `3.12`, `3.13` and `2.7`, the list `[5,0,1]` stands for `{"2.7":1,"3.12":5}`. If the
object is shorter, for example because only rare categories have downloads, it is stored instead.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import orjson

from app.domain.events import CountedFiles

MONTH_PATTERN = r"^[0-9]{4}-(0[1-9]|1[0-2])$"


def month_of(day: date) -> date:
    """Return the first day of a day's month."""
    return day.replace(day=1)


def following_month(month: date) -> date:
    return month_of(month + timedelta(days=31))


def months_before(month: date, count: int) -> date:
    """Return the month that is `count` months earlier."""
    years, months = divmod(month.year * 12 + month.month - 1 - count, 12)
    return date(years, months + 1, 1)


def first_month_since(day: date) -> date:
    """Return the first month that does not begin before a day."""
    return day if day.day == 1 else following_month(day)


def days_of_month(month: date) -> list[date]:
    """Return all days of a month, in order."""
    length = (following_month(month) - month).days
    return [month + timedelta(days=passed) for passed in range(length)]


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month as a period, unlike a `date`, which is a day. `str` returns 2026-05."""

    first: date
    """First day of the month."""

    def __str__(self) -> str:
        # `strftime` does not pad the year.
        return self.first.isoformat()[:7]

    @property
    def last(self) -> date:
        return following_month(self.first) - timedelta(days=1)


Period = date | Month
"""The period that one query counts and one file contains: a day or a month."""


def first_day(period: Period) -> date:
    return period.first if isinstance(period, Month) else period


def last_day(period: Period) -> date:
    return period.last if isinstance(period, Month) else period


def days_of(period: Period) -> list[date]:
    """Return all days of a period, in order."""
    return days_of_month(period.first) if isinstance(period, Month) else [period]


def parse_month(text: str) -> Month:
    """Parse a month such as 2026-05. Raises a `ValueError` that describes the format."""
    if re.fullmatch(MONTH_PATTERN, text):
        with suppress(ValueError):
            return Month(date.fromisoformat(f"{text}-01"))
    raise ValueError("should be a month such as 2026-05")


def months_between(first: Month, last: Month) -> list[Month]:
    """Return the months from `first` to `last`, both included, latest first."""
    months = []
    while first <= last:
        months.append(last)
        last = Month(month_of(last.first - timedelta(days=1)))
    return months


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMonth:
    """The record of a month whose downloads are stored as one row per package."""

    month: date
    """First day of the month."""

    days: int
    """Number of days whose downloads are included."""

    missing_days: Sequence[date] = ()
    """Days of the month whose downloads are not included, in order."""

    source: str
    """Sources of the days, separated by commas."""

    counted_files: CountedFiles | None
    """Rule by which all days were counted, or None if they have different rules."""

    breakdowns: Sequence[str]
    """Columns of the breakdowns that all days have, including the required ones."""

    categories: Mapping[str, Sequence[str]]
    """Categories by column, in the order of the counts in the rows. There are none for breakdowns
    that `__all__` does not have, whose counts are stored as objects.
    """

    packages: int
    downloads: int
    """Downloads of all packages, mirrors excluded."""

    downloads_with_mirrors: int
    digest: str
    """Hash of the month's rows. Equal rows have equal digests in all databases."""

    days_digest: str | None = None
    """Hash of the records of the days that were summed, or None if the month was imported."""

    rolled_up_at: datetime
    """When the days were summed, or when the month was imported."""

    announced_at: datetime | None = None
    """Time of the publish that made these figures visible. Recorded by `announce`."""

    followed: str | None = None
    """Names of the only packages that all summed days were read for, as `followed_text` returns
    them, or None if all packages were.
    """

    @property
    def period(self) -> Month:
        return Month(self.month)

    def has(self, packages: Iterable[str]) -> bool:
        """Return True if the downloads of these packages are known."""
        return self.followed is None or {*packages} <= {*self.followed.split()}

    def __str__(self) -> str:
        figures = f"{self.packages:,} packages, {self.downloads:,} downloads"
        return f"{self.period}: {figures} on {self.days} days"


def ordered_categories(all_packages: Mapping[str, int]) -> list[str]:
    """Return the categories of all packages, those with the most downloads first."""
    return sorted(all_packages, key=lambda category: (-all_packages[category], category))


def pack(counts: Mapping[str, int], positions: Mapping[str, int]) -> str:
    """Return the stored text of counts. `positions` are those of the month's categories."""
    text = b""
    if positions.keys() >= counts.keys():
        values = [0] * (1 + max(map(positions.__getitem__, counts), default=-1))
        for category, downloads in counts.items():
            values[positions[category]] = downloads
        text = orjson.dumps(values)
        # A zero takes 2 bytes, and a category at least 4: its name, quotes and a colon.
        if len(values) <= 3 * len(counts):
            return text.decode()
    as_object = orjson.dumps(counts, option=orjson.OPT_SORT_KEYS)
    return (min(text, as_object, key=len) if text else as_object).decode()


def unpack(
    stored: Mapping[str, int] | Sequence[int], categories: Sequence[str]
) -> Mapping[str, int]:
    """Return the counts by category, from the parsed text of a row. No count is zero."""
    if isinstance(stored, Mapping):
        return stored
    pairs = zip(categories, stored, strict=False)
    return {category: downloads for category, downloads in pairs if downloads}
