"""Rules by which a day that was read is published or held."""

from dataclasses import dataclass
from datetime import date

from app.domain.events import CountedFiles, KnownEvents
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits of a day's figures, as ratios to what is normal."""

    min_packages_ratio: float
    max_packages_ratio: float
    min_downloads_ratio: float
    max_downloads_ratio: float

    min_step_ratio: float
    """A day with less is never part of a new level."""

    max_step_ratio: float
    """A day with more is never part of a new level."""

    step_days: int
    """Number of similar days in a row that make a new level."""


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    """Conditions for publishing a day."""

    retention_days: int
    thresholds: Thresholds
    events: KnownEvents
    """Known events, which determine which days can be compared."""

    force: bool = False
    """True publishes a day whatever its figures are, even if it had more downloads before."""

    replace_sample: bool = False
    """True deletes all sample data when the first real day is published."""

    only_if_changed: bool = False
    """True reads a day again only if its partition changed since it was last read, and replaces a
    published day only if it grew, or was suspect and is no longer.
    """

    def counts_alike(self, day: date, one: CountedFiles, other: CountedFiles) -> bool:
        """Return True if both rules count the same files on that day."""
        return self.events.definition(day, one) == self.events.definition(day, other)


def policy_of(settings: Settings) -> PublishPolicy:
    return PublishPolicy(
        retention_days=settings.retention_days,
        thresholds=Thresholds(
            min_packages_ratio=settings.ingest_min_packages_ratio,
            max_packages_ratio=settings.ingest_max_packages_ratio,
            min_downloads_ratio=settings.ingest_min_downloads_ratio,
            max_downloads_ratio=settings.ingest_max_downloads_ratio,
            min_step_ratio=settings.ingest_min_step_ratio,
            max_step_ratio=settings.ingest_max_step_ratio,
            step_days=settings.ingest_step_days,
        ),
        events=KnownEvents(settings.ingest_events_file),
    )
