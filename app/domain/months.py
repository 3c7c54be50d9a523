"""Calendar months, each identified by its first day, and the record of a stored month."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from app.domain.events import CountedFiles


def month_of(day: date) -> date:
    """Return the first day of a day's month."""
    return day.replace(day=1)


def following_month(month: date) -> date:
    return month_of(month + timedelta(days=31))


def days_of_month(month: date) -> list[date]:
    """Return all days of a month, in order."""
    length = (following_month(month) - month).days
    return [month + timedelta(days=passed) for passed in range(length)]


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

    def __str__(self) -> str:
        return (
            f"{self.month:%Y-%m} of {self.days} days: {self.packages:,} packages, "
            f"{self.downloads:,} downloads"
        )
