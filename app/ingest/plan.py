"""Decides which days to read from a source, and when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import dropwhile, takewhile

from app.db.repositories.runs_repository import Failures
from app.domain.breakdowns import REQUIRED_COLUMNS
from app.domain.days import end_of
from app.domain.downloads import DayFigures, HeldDay, PublishedDay, RunOutcome, served_days
from app.errors import IngestError
from app.ingest.policy import PublishPolicy
from app.ingest.publish import check_in_window
from app.settings import IngestSource, Settings

CLOCK_TOLERANCE = timedelta(hours=1)
"""How far the clocks of two machines may differ. A stored time that is further ahead is wrong."""

LONGEST_WAIT = timedelta(days=30)
"""Longest time between two readings of a day. Each costs as much as the first one."""

LONGEST_WAIT_FOR_CHECK = timedelta(days=7)
"""Longest time between two checks of a day whose partition is known. A check is nearly free."""

MOST_DOUBLINGS = 24
"""Maximum number of times that a wait is doubled, so that no `timedelta` overflows. 2**24 seconds
are 194 days.
"""

RECHECKED_WITHIN = timedelta(days=7)
"""How long after its due time a missed check is still made."""

SUSPECT_WAIT = timedelta(days=1)
"""Time until a suspect day is first checked. It doubles with each check."""

FIRST_DAY = date(2016, 1, 1)
"""Earliest day that can be ingested. PyPI's table of downloads begins in 2016."""


def latest_complete_day(now: datetime) -> date:
    """Return the latest UTC day that is over."""
    return now.date() - timedelta(days=1)


def check_ingestible(day: date, now: datetime) -> None:
    """Raise `IngestError` if the day is before the first day of PyPI's table, or is not over."""
    latest = latest_complete_day(now)
    if not FIRST_DAY <= day <= latest:
        raise IngestError(
            f"{day} can't be ingested: the first day is {FIRST_DAY}, and the latest complete UTC "
            f"day is {latest}"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Days to read now, and when the next one is due. Unread days are in order, latest first."""

    new: list[date]
    """Unread days that the latest firing of the schedule made due: one day, if it is daily."""

    again: list[date]
    """Days that were read or failed before and are due again, the longest overdue first. In this
    order every day is eventually read, even if one run can't read all of them.
    """

    older: list[date]
    """Unread days that became due at earlier firings."""

    next_due: datetime | None
    """Time at which the next day that was read or failed before is due again, or None."""

    def days(self, *, catch_up: bool) -> list[date]:
        """Return the days in the order in which to read them.

        Older days are included only to catch up, and come last because there can be many.
        """
        return [*self.new, *self.again, *(self.older if catch_up else ())]


def plan(
    settings: Settings,
    now: datetime,
    published: Mapping[date, PublishedDay],
    held: Mapping[date, HeldDay],
    failures: Mapping[date, Failures],
) -> Plan:
    """Plan to read the served days that are missing, and those that are due again. Days of other
    followed packages count as missing.
    """
    published = {day: one for day, one in published.items() if one.followed == settings.followed}

    def due_at(day: date) -> datetime:
        return settings.ingest_schedule.next_day_due_at(day - timedelta(days=1))

    complete = latest_complete_day(now)
    latest = max([complete, *published])
    served = (latest - timedelta(days=passed) for passed in range(settings.retention_days))
    # While the clock was ahead, days that are not over may have been published.
    days = [day for day in served if FIRST_DAY <= day <= complete]
    due = list(dropwhile(lambda day: due_at(day) > now, days))
    missing = [day for day in due if not (day in published or day in held or day in failures)]
    new = list(takewhile(lambda day: due_at(day) == due_at(due[0]), missing))
    again_at = {
        day: moment
        for day in days
        if (moment := _due_again_at(settings, now, day, published, held, failures))
    }
    again = [day for day, moment in again_at.items() if moment <= now]
    later = [moment for moment in again_at.values() if moment > now]
    return Plan(
        new,
        sorted(again, key=again_at.__getitem__),
        missing[len(new) :],
        min(later, default=None),
    )


def _due_again_at(
    settings: Settings,
    now: datetime,
    day: date,
    published: Mapping[date, PublishedDay],
    held: Mapping[date, HeldDay],
    failures: Mapping[date, Failures],
) -> datetime | None:
    """Return when to read a day again, or None if that is not needed."""
    due = read_at = None
    if day in held:
        due, read_at = held_due_at(settings, held[day]), held[day].read_at
    elif day in published:
        due, read_at = recheck_at(settings, now, published[day]), published[day].checked_at
    elif day in failures:
        due = end_of(day)
    if read_at and read_at > now + CLOCK_TOLERANCE:
        # The recorded time is wrong, so the day may have been read too early.
        due = now
    failed = failures.get(day)
    if due and failed and failed.last_started_at <= now + CLOCK_TOLERANCE:
        # An interrupted last run does not count, because the day may not be the cause.
        count = failed.costly - (failed.last_outcome is RunOutcome.INTERRUPTED)
        due = max(due, failed.last_started_at + _wait(settings, count))
    return due


def recheck_at(settings: Settings, now: datetime, published: PublishedDay) -> datetime | None:
    """Return when a published day is checked again, or None if that is not planned."""
    if published.suspect_reason:
        return suspect_due_at(published)
    if not settings.ingest_recheck_after_hours:
        return None
    due = end_of(published.day) + timedelta(hours=settings.ingest_recheck_after_hours)
    is_needed = published.checked_at < due and now <= due + RECHECKED_WITHIN
    return due if is_needed else None


def suspect_due_at(suspect: PublishedDay) -> datetime:
    """Return when a suspect day is checked again."""
    passed = suspect.checked_at - suspect.published_at
    return suspect.checked_at + min(max(passed, SUSPECT_WAIT), _longest_wait(suspect))


def held_due_at(settings: Settings, held: HeldDay) -> datetime:
    """Return when a held day is checked again, and read if it has changed."""
    return held.read_at + min(_wait(settings, held.readings), _longest_wait(held))


def _longest_wait(day: DayFigures) -> timedelta:
    return LONGEST_WAIT_FOR_CHECK if day.partition else LONGEST_WAIT


def _wait(settings: Settings, readings: int) -> timedelta:
    """Return the wait after a number of readings or failures of a day. Each of them doubles it."""
    if readings < 1:
        return timedelta(0)
    first = timedelta(minutes=settings.ingest_retry_after_minutes)
    return min(first * float(2 ** min(readings - 1, MOST_DOUBLINGS)), LONGEST_WAIT)


def days_to_backfill(
    published: Mapping[date, PublishedDay],
    start: date | None,
    end: date,
    *,
    now: datetime,
    policy: PublishPolicy,
    again: bool = False,
) -> list[date]:
    """Return the unpublished days from `start` to `end`, both included, latest first.

    `start` defaults to the first day that is served after `end` is published. With `again`, all
    days are returned. Sample data that will be replaced counts as not published, and so do days of
    other followed packages.
    Raises an `IngestError` if a day is not complete, or would be outside the window.
    """
    for day in filter(None, (start, end)):
        check_ingestible(day, now)
    present = {
        day
        for day, one in published.items()
        if policy.follows_alike(one)
        and not (policy.replace_sample and one.source == IngestSource.SAMPLE)
    }
    latest = max(present | {end})
    start = start or served_days(latest, policy.retention_days).first
    check_in_window(start, latest, policy.retention_days)
    days = [end - timedelta(days=passed) for passed in range((end - start).days + 1)]
    return [day for day in days if again or day not in present]


def days_to_seed(
    published: Mapping[date, PublishedDay],
    *,
    now: datetime,
    policy: PublishPolicy,
    columns: Sequence[str],
) -> list[date]:
    """Return the days that are missing from a full window of sample data, latest first.

    Days with other breakdowns than `columns` count as missing. The window ends with the latest
    published day, or in an empty database with the latest complete day.
    """
    end = max(published, default=latest_complete_day(now))
    matching = {
        day: one
        for day, one in published.items()
        if (*REQUIRED_COLUMNS, *one.breakdowns) == tuple(columns)
    }
    return days_to_backfill(matching, None, end, now=now, policy=policy)
