"""Rules that decide whether a day is published or held."""

from dataclasses import dataclass, fields
from datetime import date
from math import inf

from app.domain.downloads import DayFigures
from app.domain.events import CountedFiles, KnownEvents
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits of a day's figures as ratios to normal figures, set by settings of the same names."""

    min_packages_ratio: float
    max_packages_ratio: float
    min_downloads_ratio: float
    max_downloads_ratio: float
    min_step_ratio: float
    max_step_ratio: float
    step_days: int


LEAST_JUDGED_DOWNLOADS = 100
"""Usual downloads of followed packages below which a day is always plausible."""


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    """Conditions for publishing a day."""

    retention_days: int
    thresholds: Thresholds
    keep_months: int | None
    """Maximum number of stored months, or None for all."""

    events: KnownEvents
    """Known events, which determine which days can be compared."""

    followed: str | None = None
    """The followed packages, as they are stored with days. None if all packages are."""

    force: bool = False
    """True if a day is published even if it is not plausible or had more downloads before."""

    replace_sample: bool = False
    """True if all sample data is deleted when the first real day is published."""

    only_if_changed: bool = False
    """True if a day is read again only when its partition has changed since the last reading. A
    published day is then replaced only if the new rows have more downloads, were counted by another
    rule, or are plausible while the published day is suspect.
    """

    @property
    def least_judged_downloads(self) -> int:
        """Usual downloads of a day below which nothing can be said about the day."""
        return 0 if self.followed is None else LEAST_JUDGED_DOWNLOADS

    def counts_alike(self, day: date, one: CountedFiles, other: CountedFiles) -> bool:
        """Return True if both rules count the same files on that day."""
        return self.events.definition(day, one) == self.events.definition(day, other)

    def follows_alike(self, figures: DayFigures) -> bool:
        """Return True if the day was read for the packages that are followed now."""
        return figures.followed == self.followed


def policy_of(settings: Settings) -> PublishPolicy:
    limits = {one.name: getattr(settings, f"ingest_{one.name}") for one in fields(Thresholds)}
    if settings.ingest_packages is not None:
        # A few packages may have no downloads on one day and many times the usual on another. Only
        # a day on which nearly all downloads are missing is certainly wrong.
        limits |= {"min_packages_ratio": 0.0, "max_packages_ratio": inf}
        limits |= {"min_downloads_ratio": settings.ingest_min_step_ratio}
        limits |= {"max_downloads_ratio": inf, "max_step_ratio": inf}
    events = KnownEvents(settings.ingest_events_file)
    thresholds = Thresholds(**limits)
    return PublishPolicy(
        settings.retention_days, thresholds, settings.keep_months, events, settings.followed
    )
