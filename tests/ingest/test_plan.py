"""Tests of the rules by which days are due, without a database or a clock."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from app.db.repositories.runs_repository import Failures
from app.domain.downloads import HeldDay, Partition, PublishedDay, RunOutcome
from app.domain.schedule import Schedule
from app.ingest.plan import Plan, held_due_at, plan, suspect_due_at
from app.settings import Settings

TODAY = date(2026, 11, 22)


def _settings(
    schedule: str = "0 1 * * *",
    days: int = 30,
    retry_after: timedelta = timedelta(minutes=30),
    recheck_after_hours: float = 0,
) -> Settings:
    changes = {
        "ingest_schedule": Schedule(schedule),
        "retention_days": days,
        "ingest_retry_after_minutes": retry_after / timedelta(minutes=1),
        "ingest_recheck_after_hours": recheck_after_hours,
    }
    return Settings().model_copy(update=changes)


DAILY = _settings()
RECHECKING = _settings(recheck_after_hours=24)


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def at(hour: float, day: date = TODAY) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=hour)


def published(
    day: date,
    checked_at: datetime | None = None,
    published_at: datetime | None = None,
    *,
    suspect_reason: str | None = None,
    partition: Partition | None = None,
) -> PublishedDay:
    return PublishedDay(
        day=day,
        source="given",
        packages=1,
        downloads=1,
        downloads_with_mirrors=1,
        digest="",
        published_at=published_at or at(0),
        checked_at=checked_at or min(at(48, day), at(0)),
        suspect_reason=suspect_reason,
        partition_rows=partition.rows if partition else None,
        partition_modified_at=partition.modified_at if partition else None,
    )


def held(day: date, read_at: datetime, readings: int = 1) -> HeldDay:
    return HeldDay(
        day=day,
        source="given",
        packages=1,
        downloads=1,
        downloads_with_mirrors=1,
        digest="",
        reason="",
        held_since=read_at,
        read_at=read_at,
        readings=readings,
        same_since=read_at,
        wrong_rows=0,
    )


def planned(
    now: datetime,
    days: Mapping[date, PublishedDay] | None = None,
    *waiting: HeldDay,
    failures: Mapping[date, Failures] | None = None,
    settings: Settings = DAILY,
) -> Plan:
    return plan(
        settings,
        now,
        all_but() if days is None else days,
        {one.day: one for one in waiting},
        failures or {},
    )


def due(
    now: datetime, days: Mapping[date, PublishedDay] | None = None, settings: Settings = DAILY
) -> list[date]:
    return planned(now, days, settings=settings).days(catch_up=True)


LATEST = ago(1)


def all_but(*missing: date, last: date = LATEST) -> dict[date, PublishedDay]:
    span = (last - timedelta(days=passed) for passed in range(30))
    return {day: published(day) for day in span if day not in missing}


EVERY = _settings(days=365)

NOTHING = Plan([], [], [], None)


def test_missing_days_are_due_latest_first() -> None:
    made = planned(at(2), all_but(ago(20), ago(1), ago(3)))
    assert made.days(catch_up=True) == [ago(1), ago(3), ago(20)]
    assert planned(at(2)) == NOTHING
    assert due(at(2), {}) == [ago(days) for days in range(1, 31)]


def test_the_latest_day_is_due_also_between_firings() -> None:
    """Only older days are left for the schedule."""
    made = planned(at(2), all_but(ago(20), ago(1), ago(3)))
    assert made.days(catch_up=False) == [ago(1)]
    assert planned(at(2), all_but(ago(20), ago(3))).days(catch_up=False) == []
    assert planned(at(24.9), all_but(ago(1))).days(catch_up=False) == [ago(1)]
    # A schedule that has fired again since.
    hourly = _settings("0 * * * *")
    assert planned(at(20), {}, settings=hourly).days(catch_up=False) == [ago(1)]


def test_all_days_that_became_due_with_the_latest_are_new() -> None:
    """The weekly schedule last fired on Monday, six days ago."""
    weekly = _settings("0 1 * * mon")
    made = planned(at(2), {}, settings=weekly)
    assert made.new == [ago(days) for days in range(7, 14)]
    assert made.older == [ago(days) for days in range(14, 31)]
    # Also if some of them were read.
    made = planned(at(2), all_but(ago(9), ago(20), last=ago(7)), settings=weekly)
    assert (made.new, made.older) == ([ago(9)], [ago(20)])


def test_a_day_is_not_due_before_the_schedule_says_so() -> None:
    before = all_but(ago(1))
    assert planned(at(0.99), before) == NOTHING
    assert due(at(1), before) == [ago(1)]
    # On Mondays only: today is a Sunday, and the last firing was six days ago.
    weekly = _settings("0 1 * * mon")
    assert due(at(2), {}, settings=weekly)[0] == ago(7)
    assert weekly.ingest_schedule.next_day_due_at(ago(7)) == at(1, TODAY + timedelta(days=1))


def test_a_rare_schedule_plans_no_day_before_the_window() -> None:
    leap = _settings("0 0 29 2 *")
    assert planned(at(2), all_but(ago(1), last=ago(2)), settings=leap) == NOTHING


def test_the_window_ends_with_the_latest_complete_day() -> None:
    assert due(at(2), {ago(1): published(ago(1))})[-1] == ago(30)
    long_ago = {ago(90): published(ago(90))}
    assert due(at(2), long_ago) == [ago(days) for days in range(1, 31)]


@pytest.mark.parametrize(
    ("checked_after_hours", "now_after_hours", "is_due", "next_due_hours"),
    [
        (1, 2, False, 24),
        (1, 23.9, False, 24),
        (1, 24, True, None),
        (23.9, 100, True, None),
        (24, 100, False, None),
    ],
)
def test_a_day_that_was_read_soon_after_its_end_is_checked_once_more(
    checked_after_hours: float,
    now_after_hours: float,
    is_due: bool,
    next_due_hours: float | None,
) -> None:
    """In hours since its end."""
    day = ago(20)
    end = at(24, day)
    days = all_but() | {day: published(day, end + timedelta(hours=checked_after_hours))}
    now = end + timedelta(hours=now_after_hours)
    later = {one: figures for one, figures in days.items() if one <= now.date()}
    made = planned(now, later, settings=RECHECKING)
    assert (day in made.days(catch_up=True)) == is_due
    expected = end + timedelta(hours=next_due_hours) if next_due_hours else None
    assert made.next_due == expected
    assert day not in due(now, later)


@pytest.mark.parametrize(
    ("readings", "hours"),
    [(1, 0.5), (2, 1), (3, 2), (8, 64), (11, 512), (12, 30 * 24), (1000, 30 * 24)],
)
def test_a_held_day_is_read_again_at_growing_intervals(readings: int, hours: float) -> None:
    day = ago(25)
    read_at = at(30, day)
    waiting = held(day, read_at, readings)
    due_again = read_at + timedelta(hours=hours)
    for days in (all_but(day), all_but()):
        for now, is_due in ((due_again, True), (due_again - timedelta(seconds=1), False)):
            # As long as the window reaches to it.
            known = {one: figures for one, figures in days.items() if one < now.date()}
            made = plan(EVERY, now, known, {day: waiting}, {})
            assert (day in made.again) == is_due
            assert is_due or made.next_due == due_again


@pytest.mark.parametrize("retry_after", [timedelta(seconds=1), timedelta(days=7)])
def test_long_waits_do_not_overflow(retry_after: timedelta) -> None:
    settings = _settings(retry_after=retry_after)
    waits = [
        held_due_at(settings, held(ago(1), at(0), readings)) - at(0) for readings in range(1, 200)
    ]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (retry_after, timedelta(days=30))


@pytest.mark.parametrize(
    ("count", "outcome", "hours"),
    [
        (1, RunOutcome.FAILED, 0.5),
        (2, RunOutcome.FAILED, 1),
        (1, RunOutcome.INTERRUPTED, 0),
        (2, RunOutcome.INTERRUPTED, 0.5),
        (0, RunOutcome.FAILED, 0),
        (50, RunOutcome.FAILED, 30 * 24),
    ],
)
def test_a_day_that_fails_after_its_query_waits(
    count: int, outcome: RunOutcome, hours: float
) -> None:
    day = ago(2)
    started = at(2, ago(1))
    failures = {day: Failures(count, started, outcome)}
    due_again = started + timedelta(hours=hours)
    days = {one: figures for one, figures in all_but(day).items() if one < day}
    assert day in plan(EVERY, due_again, days, {}, failures).again
    if hours:
        made = plan(EVERY, due_again - timedelta(seconds=1), days, {}, failures)
        assert day not in made.days(catch_up=True)
        assert made.next_due == due_again


def test_a_day_that_was_read_by_a_wrong_clock_is_read_again() -> None:
    """A clock that was years ahead stored times that do not come, so their ages are unknown."""
    day = ago(9)
    ahead = at(0) + timedelta(days=800)
    one_ahead = all_but() | {day: published(day, ahead)}
    assert planned(at(2), one_ahead).again == [day]
    assert planned(at(2), all_but(day), held(day, ahead, 5)).again == [day]
    failed = Failures(5, ahead, RunOutcome.FAILED)
    assert planned(at(2), all_but(day), failures={day: failed}).again == [day]
    # A day that is not over is left until it is.
    not_over = {TODAY: published(TODAY, ahead)}
    assert planned(at(2), all_but() | not_over).again == []
    # It is put off as ever if that fails.
    failed = Failures(2, at(1.5), RunOutcome.FAILED)
    made = planned(at(2), one_ahead, failures={day: failed})
    assert (made.again, made.next_due) == ([], at(2.5))
    # The clocks of two machines differ a little.
    a_little = at(2) + timedelta(minutes=59)
    assert planned(at(2), all_but() | {day: published(day, a_little)}) == NOTHING
    assert planned(at(2), all_but(day), held(day, a_little)).again == []


def test_days_that_were_read_come_after_new_days_and_before_older_ones() -> None:
    """A long list of missing days does not delay the check of a day."""
    waiting = held(ago(9), at(0, ago(5)))
    days = all_but(ago(1), ago(4), ago(9), ago(20))
    days[ago(2)] = published(ago(2), at(25, ago(2)))
    made = planned(at(2), days, waiting, settings=RECHECKING)
    assert made.days(catch_up=True) == [ago(1), ago(9), ago(2), ago(4), ago(20)]
    assert made.again == [ago(9), ago(2)], "the longest overdue comes first"


def test_a_check_that_is_overdue_for_a_week_is_skipped() -> None:
    """Otherwise a new setting or version would check all days again."""
    days = {day: published(day, at(25, day)) for day in all_but()}
    assert planned(at(2), days, settings=RECHECKING).again == [
        ago(back) for back in range(8, 1, -1)
    ]


PARTITION = Partition(1, at(0))


@pytest.mark.parametrize(
    ("partition", "expected"),
    [(PARTITION, [1, 2, 4, 8, 15, 22, 29, 36, 43]), (None, [1, 2, 4, 8, 16, 32])],
)
def test_a_suspect_day_is_checked_at_growing_intervals(
    partition: Partition | None, expected: list[int]
) -> None:
    """A suspect day is checked at least once a week if a check is free."""
    day = ago(1)
    first = checked = at(10)
    for days in expected:
        suspect = published(day, checked, first, suspect_reason="few", partition=partition)
        checked = suspect_due_at(suspect)
        assert checked == first + timedelta(days=days)
        known = {**all_but(), day: suspect}
        if checked <= at(24 * 28):
            assert day in plan(EVERY, checked, known, {}, {}).again
            assert day not in plan(EVERY, checked - timedelta(seconds=1), known, {}, {}).again


def test_a_suspect_day_is_checked_even_if_rechecks_are_disabled() -> None:
    without = _settings(days=5)
    day = ago(5)
    known = {day: published(day, at(34, day), at(34, day), suspect_reason="few")}
    assert plan(without, at(12), known, {}, {}).again == [day]


def test_a_held_day_is_checked_at_least_once_a_week_if_that_is_free() -> None:
    seen = replace(held(ago(1), at(0)), partition_rows=1, partition_modified_at=at(0))
    waits = [held_due_at(DAILY, replace(seen, readings=readings)) for readings in (8, 100)]
    assert waits == [at(64), at(7 * 24)]
