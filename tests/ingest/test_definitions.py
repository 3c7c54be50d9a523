"""Days before and after a change of what counts as a download: neither is held for the other."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.downloads_repository import DownloadsRepository
from app.domain.downloads import DayFigures, HeldDay
from app.domain.events import ARTIFACTS_SINCE, CountedFiles, Event, EventKind, KnownEvents
from app.ingest.judge import KnownDays
from app.ingest.publish import PublishContext
from app.ingest.runs import DayIngester, ingest_lock
from tests.clock import ManualClock
from tests.days import POLICY, RETENTION_DAYS, GivenSource, downloads
from tests.ingest.test_judge import figures, held

LEVELS = (0.3, 0.45, 0.6, 0.75, 0.9)
DAYS = [ARTIFACTS_SINCE + timedelta(days) for days in range(-40, 40)]
BACKFILL = DAYS[::-1]
"""The latest first."""


def _level(day: date, after: float, mixed: float = 1.0) -> float:
    """The level of a day; on the day of the change, `mixed` of it is by the later definition."""
    if day == ARTIFACTS_SINCE:
        return 1 - mixed + mixed * after
    return after if day > ARTIFACTS_SINCE else 1.0


def _held(
    days: Iterable[DayFigures],
    events: KnownEvents,
    published: Iterable[DayFigures] = (),
    suspect: Iterable[date] = (),
) -> list[date]:
    """The days that stay held when days come in this order, one after the other, and those that
    have become plausible by then are released.

    Of the others these are suspect in the end.
    """
    known = {one.day: one for one in published}
    waiting: dict[date, HeldDay] = {}
    for one in days:
        verdict = KnownDays(known, waiting, replace(POLICY, events=events)).judge(one)
        if verdict.reason:
            waiting[one.day] = held(one, settled=False)
        else:
            known[one.day] = one
    while plausible := [
        day
        for day, one in waiting.items()
        if not KnownDays(known, waiting, replace(POLICY, events=events)).judge(one).reason
    ]:
        known[max(plausible)] = waiting.pop(max(plausible))
    suspects = KnownDays(known, waiting, replace(POLICY, events=events)).suspects(min(known))
    assert suspects.keys() == set(suspect)
    return sorted(waiting)


@pytest.mark.parametrize("mixed", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("order", [DAYS, BACKFILL], ids=["daily", "backfill"])
@pytest.mark.parametrize("after", [*LEVELS, 2.5])
def test_no_day_is_held_because_of_the_change(
    after: float, order: list[date], mixed: float
) -> None:
    days = [figures(day, _level(day, after, mixed)) for day in order]
    assert _held(days, KnownEvents()) == []


@pytest.mark.parametrize("order", [DAYS, BACKFILL], ids=["daily", "backfill"])
@pytest.mark.parametrize("after", LEVELS)
@pytest.mark.parametrize("days", [-39, -8, -2, 2, 3, 5, 6, 7, 8, 20])
def test_a_day_that_is_half_missing_is_held(after: float, order: list[date], days: int) -> None:
    """In the week after the change, no weekday has another one to be compared with."""
    half = ARTIFACTS_SINCE + timedelta(days)
    shares = {half: 0.5}
    in_order = [figures(day, _level(day, after) * shares.get(day, 1)) for day in order]
    assert _held(in_order, KnownEvents()) == [half]


@pytest.mark.parametrize("after", LEVELS)
def test_an_incomplete_first_day_of_a_definition_becomes_suspect(after: float) -> None:
    """A day is published if there is no day to compare it with."""
    half = ARTIFACTS_SINCE - timedelta(days=1)
    shares = {half: 0.4}
    in_order = [figures(day, _level(day, after) * shares.get(day, 1)) for day in BACKFILL]
    assert _held(in_order, KnownEvents(), suspect=[half]) == []


@pytest.mark.parametrize("after", LEVELS)
def test_a_lossy_day_of_the_change_is_held_or_suspect(after: float) -> None:
    """The day can't be compared with its neighbours, but no change is that large."""
    lossy = {ARTIFACTS_SINCE: 0.001}
    events = KnownEvents()
    daily, backfill = (
        [figures(day, _level(day, after, mixed=0.4) * lossy.get(day, 1)) for day in order]
        for order in (DAYS, BACKFILL)
    )
    assert _held(daily, events) == _held(backfill, events) == [ARTIFACTS_SINCE]
    # Read first, it is published, and suspect once there are others on either side.
    (one,) = (one for one in daily if one.day == ARTIFACTS_SINCE)
    for others in ([one.day < ARTIFACTS_SINCE for one in daily], [True] * len(daily)):
        known = [one, *(other for other, is_in in zip(daily, others, strict=True) if is_in)]
        assert _held(dict.fromkeys(known), events, suspect=[ARTIFACTS_SINCE]) == []


@pytest.mark.parametrize("order", [DAYS, BACKFILL], ids=["daily", "backfill"])
def test_the_first_days_of_a_definition_are_held_if_they_lost_almost_everything(
    order: list[date],
) -> None:
    """No other day of their definition is there for a comparison, or they all lost as much."""
    is_first = order is DAYS
    lossy = {day for day in DAYS if (day > ARTIFACTS_SINCE if is_first else day < ARTIFACTS_SINCE)}
    days = [figures(day, 0.001 if day in lossy else _level(day, 0.6)) for day in order]
    assert _held(days, KnownEvents()) == sorted(lossy)


@pytest.mark.parametrize("level", [0.35, 0.49])
@pytest.mark.parametrize("weeks", [1, 2, 3, 4])
def test_an_incomplete_first_day_holds_no_later_day(level: float, weeks: int) -> None:
    first = ARTIFACTS_SINCE + timedelta(days=1)
    later = first + timedelta(weeks=weeks)
    tuesdays = [first + timedelta(weeks=week) for week in range(1, weeks)]
    span = [first + timedelta(days) for days in range(1, 7 * weeks)]
    known = {day: figures(day) for day in span if day not in tuesdays}
    known[first] = figures(first, level)
    waiting = {day: held(figures(day), settled=False) for day in tuesdays}
    events = KnownEvents()
    assert (
        not KnownDays(known, waiting, replace(POLICY, events=events)).judge(figures(later)).reason
    )


def test_an_operators_definition_counts_as_pypis() -> None:
    change = DAYS[20]
    event = Event(
        date=change, kind=EventKind.DEFINITION, summary="Ours.", url="https://stats.example"
    )
    days = [figures(day, 0.4 if day > change else 1.0) for day in DAYS[:40]]
    assert _held(days, KnownEvents([event])) == []
    outage = event.model_copy(update={"kind": EventKind.OUTAGE})
    assert _held(days, KnownEvents([outage]))[:1] == [change + timedelta(days=1)]


def _by(rule: CountedFiles, day: date, level: float) -> DayFigures:
    return replace(figures(day, level), counted_files=rule)


def test_days_counted_by_artifacts_are_compared_across_the_change() -> None:
    artifacts = [_by(CountedFiles.ARTIFACTS, day, 0.5) for day in DAYS]
    assert _held(artifacts, KnownEvents()) == []
    (_, *others) = artifacts
    half = _by(CountedFiles.ARTIFACTS, ARTIFACTS_SINCE - timedelta(days=1), 0.25)
    later = [one for one in others if one.day >= ARTIFACTS_SINCE]
    assert _held([half], KnownEvents(), later) == [half.day]


def test_days_that_are_read_again_by_the_other_rule_are_not_held_for_it() -> None:
    known = [figures(day, _level(day, 0.4)) for day in DAYS]
    again = [_by(CountedFiles.ARTIFACTS, day, 0.4) for day in BACKFILL if day <= ARTIFACTS_SINCE]
    assert _held(again, KnownEvents(), known) == []


async def test_the_job_reads_through_the_change(engine: AsyncEngine) -> None:
    """A first backfill and then days as they come, by the real way of a day."""
    change = ARTIFACTS_SINCE
    half = change + timedelta(days=3)
    span = [change + timedelta(days=days) for days in range(-9, 12)]
    levels = {day: _level(day, 0.3, mixed=0.4) * (0.5 if day == half else 1) for day in span}
    source = GivenSource({day: [downloads("flask", round(10_000 * levels[day]))] for day in span})
    clock = ManualClock()
    first, then = span[:14], span[14:]
    read = DownloadsRepository(engine, RETENTION_DAYS)
    async with ingest_lock(engine) as lock:
        ingester = DayIngester(PublishContext(engine, POLICY, clock, lock), source)
        _ = [outcome async for outcome in ingester.ingest([*reversed(first), *then])]
    assert [one.day for one in await read.held_days()] == [half]
    assert [one.day for one in await read.published_days()] == [day for day in span if day != half]
