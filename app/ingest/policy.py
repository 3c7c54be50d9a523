"""Rules that decide whether a day is published or held."""

from dataclasses import dataclass, fields
from datetime import date

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


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    """Conditions for publishing a day."""

    retention_days: int
    thresholds: Thresholds
    keep_months: int | None
    """Maximum number of stored months, or None for all."""

    events: KnownEvents
    """Known events, which determine which days can be compared."""

    force: bool = False
    """True publishes a day even if it is not plausible or had more downloads before."""

    replace_sample: bool = False
    """True deletes all sample data when the first real day is published."""

    only_if_changed: bool = False
    """True if a day is read again only when its partition has changed since the last reading. A
    published day is then replaced only if the new rows have more downloads, were counted by another
    rule, or are plausible while the published day is suspect.
    """

    def counts_alike(self, day: date, one: CountedFiles, other: CountedFiles) -> bool:
        """Return True if both rules count the same files on that day."""
        return self.events.definition(day, one) == self.events.definition(day, other)


def policy_of(settings: Settings) -> PublishPolicy:
    limits = {one.name: getattr(settings, f"ingest_{one.name}") for one in fields(Thresholds)}
    events = KnownEvents(settings.ingest_events_file)
    return PublishPolicy(
        settings.retention_days, Thresholds(**limits), settings.keep_months, events
    )
