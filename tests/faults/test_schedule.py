"""The lock is held while the schedule fires, or the clock jumps: the latest day is published all
the same, once, and as soon as it can be.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic

import pytest
import time_machine
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import job_engine
from app.db.repositories.runs_repository import RunsRepository
from app.db.tables import ingested_days
from app.domain.clock import utc_now
from app.domain.downloads import RunOutcome
from app.domain.schedule import Schedule
from app.ingest import scheduler
from app.ingest.runs import ingest_lock
from app.ingest.scheduler import IngestScheduler, run_ingest_job
from tests.days import GivenSource
from tests.faults.audit import audit, audit_stored, stored
from tests.faults.databases import copied
from tests.faults.tally import Tally
from tests.faults.truth import rows
from tests.faults.world import SETTINGS, Settled
from tests.waiting import until

AT_ONE = SETTINGS.model_copy(
    update={"ingest_schedule": Schedule("0 1 * * *"), "ingest_recheck_after_hours": 0.0}
)

ONE = timedelta(hours=1)
"""When that fires, after midnight."""

LOOK_SECONDS = 0.05
"""How often the service compares its jobs with the wall clock, instead of once a minute."""

DAYS_AHEAD = 400


@pytest.fixture
def latest(settled: Settled) -> date:
    """The day that is missing."""
    return max(settled.complete)


@pytest.fixture
def midnight(latest: date) -> datetime:
    """When that day ends."""
    return datetime.combine(latest + timedelta(days=1), time(), UTC)


@pytest.fixture(autouse=True)
def source(settled: Settled, latest: date, monkeypatch: pytest.MonkeyPatch) -> GivenSource:
    source = GivenSource({latest: rows(settled.latest)})
    monkeypatch.setattr(scheduler, "open_source", lambda *_: source)
    monkeypatch.setattr(scheduler, "LOOK_SECONDS", LOOK_SECONDS)
    return source


@asynccontextmanager
async def read_in_time(server_url: str, settled: Settled) -> AsyncIterator[tuple[str, AsyncEngine]]:
    """Copy the database, as if each of its days had been read when it ended."""
    async with copied(server_url, settled.database) as (url, engine):
        async with engine.begin() as connection:
            end = ingested_days.c.day + timedelta(days=1)
            await connection.execute(update(ingested_days).values(checked_at=end))
        yield url, engine


class Service:
    """The ingest job with its schedule, on a database of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.runs_ended = 0
        self.schedule = IngestScheduler(AT_ONE.ingest_schedule, self._job, utc_now)

    async def _job(self, catch_up: bool) -> datetime | None:
        next_due = await run_ingest_job(AT_ONE, self._url, utc_now, catch_up)
        self.runs_ended += 1
        return next_due

    async def until_run(self, count: int) -> None:
        await until(lambda: self.runs_ended >= count)


@asynccontextmanager
async def service(url: str) -> AsyncIterator[Service]:
    """Start the service, and wait until the job that runs at its start has ended."""
    started = Service(url)
    started.schedule.start()
    try:
        await started.until_run(1)
        yield started
    finally:
        started.schedule.stop()


async def test_the_lock_is_held_while_the_schedule_fires(
    server_url: str,
    settled: Settled,
    latest: date,
    midnight: datetime,
    source: GivenSource,
    tally: Tally,
) -> None:
    async with read_in_time(server_url, settled) as (url, engine):
        with time_machine.travel(midnight + ONE - timedelta(minutes=1), tick=True) as clock:
            async with service(url) as started:
                async with job_engine(url) as other, ingest_lock(other):
                    clock.shift(timedelta(minutes=2))
                    await started.until_run(2)
                    tally.faults["firings of the schedule while the lock was held"] += 1
                    await audit_stored(tally, engine, settled.days)
                next_run = started.schedule.next_run
                assert next_run
                assert next_run - utc_now() <= scheduler.TAKEN_PAUSE
                clock.move_to(next_run)
                await until(lambda: all_published(engine, settled))
        await assert_read_once(engine, source, latest)
        await audit(tally, engine, url, settled.complete)


@pytest.mark.parametrize("hours", [9, 24 * 3 + 9], ids=["nine hours", "three days"])
async def test_the_machine_sleeps_while_the_schedule_fires(
    hours: int,
    server_url: str,
    settled: Settled,
    latest: date,
    midnight: datetime,
    source: GivenSource,
    tally: Tally,
) -> None:
    """The wall clock has jumped when it wakes up, and the monotonic clock has not."""
    async with read_in_time(server_url, settled) as (url, engine):
        with time_machine.travel(midnight - timedelta(hours=3), tick=True) as clock:
            async with service(url) as started:
                assert latest not in source.asked_days, "it is not over"
                clock.shift(timedelta(hours=3 + hours))
                tally.faults["clock jumps"] += 1
                woke_up_at = monotonic()
                await until(lambda: all_published(engine, settled))
                tally.notes.append(
                    f"the day was published {monotonic() - woke_up_at:.2f} s after the clock "
                    f"jumped, with a look at the clock every {LOOK_SECONDS:g} s"
                )
                assert started.schedule.next_run
                assert started.schedule.next_run > utc_now()
        await assert_read_once(engine, source, latest)
        await audit(tally, engine, url, settled.complete)


async def test_the_clock_is_set_right(
    server_url: str,
    settled: Settled,
    latest: date,
    midnight: datetime,
    source: GivenSource,
    tally: Tally,
) -> None:
    """It was more than a year ahead, so that the job asked for days that are still to come."""
    async with read_in_time(server_url, settled) as (url, engine):
        wrong = midnight + timedelta(days=DAYS_AHEAD)
        with time_machine.travel(wrong, tick=True) as clock:
            async with service(url) as started:
                assert source.asked_days
                assert min(source.asked_days) > latest
                clock.move_to(midnight + ONE - timedelta(minutes=1))
                tally.faults["clock jumps"] += 1
                await started.until_run(2)
                await audit_stored(tally, engine, settled.days)
                clock.shift(timedelta(minutes=1))
                await until(lambda: all_published(engine, settled))
        await assert_read_once(engine, source, latest)
        await audit(tally, engine, url, settled.complete)


async def all_published(engine: AsyncEngine, settled: Settled) -> bool:
    return (await stored(engine))[0] == settled.complete.keys()


async def assert_read_once(engine: AsyncEngine, source: GivenSource, day: date) -> None:
    assert source.asked_days.count(day) == 1
    outcomes = [run.outcome for run in await RunsRepository(engine).latest(100) if run.day == day]
    assert outcomes == [RunOutcome.PUBLISHED]
