"""Which days are asked for, and when: the rules, without a database or a clock."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import pytest

from app.db.runs_repository import Failures
from app.downloads import HeldDay, PublishedDay, RunOutcome
from app.ingest.plan import Cadence, Plan, due_at, plan

TODAY = date(2026, 11, 22)
CADENCE = Cadence("0 1 * * *", 30, timedelta(minutes=30), timedelta(hours=24))


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def at(hour: float, day: date = TODAY) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=hour)


def published(day: date, checked_at: datetime | None = None) -> PublishedDay:
    return PublishedDay(
        day=day,
        source="given",
        packages=1,
        downloads=1,
        downloads_with_mirrors=1,
        digest="",
        published_at=at(0),
        checked_at=checked_at or at(100, day),
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
        settled=False,
    )


def planned(
    now: datetime,
    days: Mapping[date, PublishedDay] | None = None,
    *waiting: HeldDay,
    failures: Mapping[date, Failures] | None = None,
    cadence: Cadence = CADENCE,
) -> Plan:
    return plan(
        cadence,
        now,
        all_but() if days is None else days,
        {one.day: one for one in waiting},
        failures or {},
    )


LATEST = ago(1)


def all_but(*missing: date, last: date = LATEST) -> dict[date, PublishedDay]:
    span = (last - timedelta(days=passed) for passed in range(30))
    return {day: published(day) for day in span if day not in missing}


def test_what_is_missing_is_due_latest_first() -> None:
    assert planned(at(2), all_but(ago(20), ago(1), ago(3))).due == [ago(1), ago(3), ago(20)]
    assert planned(at(2)) == Plan([], None)
    assert planned(at(2), {}).due == [ago(days) for days in range(1, 31)]


def test_a_day_is_not_due_before_the_schedule_says_so() -> None:
    before = all_but(ago(1))
    assert planned(at(0.99), before) == Plan([], None)
    assert planned(at(1), before).due == [ago(1)]
    # On Mondays only: today is a Sunday, and the last firing was six days ago.
    weekly = Cadence("0 1 * * mon", 30, timedelta(minutes=30), None)
    assert planned(at(2), {}, cadence=weekly).due[0] == ago(7)
    assert due_at("0 1 * * mon", ago(7)) == at(1, TODAY + timedelta(days=1))


def test_a_schedule_that_hardly_ever_fires_asks_for_nothing_before_the_days_served() -> None:
    leap = Cadence("0 0 29 2 *", 30, timedelta(minutes=30), None)
    assert planned(at(2), all_but(ago(1), last=ago(2)), cadence=leap) == Plan([], None)


def test_the_window_ends_with_the_latest_day_that_there_can_be() -> None:
    assert planned(at(2), {ago(1): published(ago(1))}).due[-1] == ago(30)
    long_ago = {ago(90): published(ago(90))}
    assert planned(at(2), long_ago).due == [ago(days) for days in range(1, 31)]


@pytest.mark.parametrize(
    ("checked_after_hours", "now_after_hours", "is_due", "next_due_hours"),
    [
        (1, 2, False, 24),
        (1, 23.9, False, 24),
        (1, 24, True, None),
        (23.9, 400, True, None),
        (24, 400, False, None),
    ],
)
def test_a_day_that_was_read_young_is_read_once_more(
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
    made = planned(now, later)
    assert (day in made.due) == is_due
    expected = end + timedelta(hours=next_due_hours) if next_due_hours else None
    assert made.next_due == expected
    without = Cadence("0 1 * * *", 30, timedelta(minutes=30), None)
    assert day not in planned(now, later, cadence=without).due


@pytest.mark.parametrize(
    ("readings", "hours"), [(1, 0.5), (2, 1), (3, 2), (8, 64), (10, 7 * 24), (1000, 7 * 24)]
)
def test_a_held_day_is_read_again_less_and_less_often(readings: int, hours: float) -> None:
    read_at = at(-500)
    day = ago(25)
    waiting = held(day, read_at, readings)
    due = read_at + timedelta(hours=hours)
    for days in (all_but(day), all_but()):
        assert planned(due - timedelta(seconds=1), days, waiting).next_due == due
        assert day in planned(due, days, waiting).due


@pytest.mark.parametrize(
    ("count", "outcome", "hours"),
    [
        (1, RunOutcome.FAILED, 0.5),
        (2, RunOutcome.FAILED, 1),
        (1, RunOutcome.INTERRUPTED, 0),
        (2, RunOutcome.INTERRUPTED, 0.5),
        (50, RunOutcome.FAILED, 7 * 24),
    ],
)
def test_a_day_that_costs_and_fails_waits(count: int, outcome: RunOutcome, hours: float) -> None:
    day = ago(2)
    started = at(2, ago(1))
    failures = {day: Failures(count, started, outcome)}
    due = started + timedelta(hours=hours)
    days = {one: figures for one, figures in all_but(day).items() if one < day}
    assert day in planned(due, days, failures=failures).due
    if hours:
        made = planned(due - timedelta(seconds=1), days, failures=failures)
        assert day not in made.due
        assert made.next_due == due
