"""The lock is held while the schedule fires, or the clock jumps: the latest day is published all
the same, once, and as soon as it can be.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta

import pytest
import time_machine
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import job_engine
from app.db.repositories.runs_repository import latest_runs
from app.db.tables import ingested_days
from app.domain.clock import utc_now
from app.domain.downloads import RunOutcome
from app.domain.months import first_day
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
"""Time after midnight at which that schedule fires."""

CLOCK_CHECK_SECONDS = 0.05
"""How often the service compares its jobs with the wall clock, instead of once a minute."""

DAYS_AHEAD = 400


@pytest.fixture
def latest(settled: Settled) -> date:
    """The day that is missing."""
    return max(settled.complete)


@pytest.fixture
def midnight(latest: date) -> datetime:
    """End of that day."""
    return datetime.combine(latest + timedelta(days=1), time(), UTC)


@pytest.fixture(autouse=True)
def source(settled: Settled, latest: date, monkeypatch: pytest.MonkeyPatch) -> GivenSource:
    source = GivenSource({latest: rows(settled.latest)})
    monkeypatch.setattr(scheduler, "open_source", lambda *_: source)
    monkeypatch.setattr(scheduler, "CLOCK_CHECK_SECONDS", CLOCK_CHECK_SECONDS)
    return source


class Service:
    """The ingest job with its schedule, on a database of its own."""

    def __init__(self, url: str, engine: AsyncEngine) -> None:
        self.url = url
        self.engine = engine
        self.runs_ended = 0
        self.schedule = IngestScheduler(AT_ONE.ingest_schedule, self._job, utc_now)

    async def _job(self, catch_up: bool) -> datetime | None:
        next_due = await run_ingest_job(AT_ONE, self.url, utc_now, catch_up)
        self.runs_ended += 1
        return next_due

    async def until_run(self, count: int) -> None:
        await until(lambda: self.runs_ended >= count)


Begin = Callable[[datetime], AbstractAsyncContextManager[tuple[Service, time_machine.Traveller]]]


@pytest.fixture
def begin(
    server_url: str, settled: Settled, latest: date, source: GivenSource, tally: Tally
) -> Begin:
    """Start the service at a moment, and yield it with the clock once its first job has ended.

    In the end all days have to be published and right, and the missing one to be read once.
    """

    @asynccontextmanager
    async def begin(moment: datetime) -> AsyncIterator[tuple[Service, time_machine.Traveller]]:
        async with copied(server_url, settled.database) as (url, engine):
            # As if each day had been read when it ended.
            async with engine.begin() as connection:
                end = ingested_days.c.day + timedelta(days=1)
                await connection.execute(update(ingested_days).values(checked_at=end))
            service = Service(url, engine)
            with time_machine.travel(moment, tick=True) as clock:
                service.schedule.start()
                try:
                    await service.until_run(1)
                    yield service, clock
                    await until(lambda: all_published(engine, settled))
                finally:
                    service.schedule.stop()
            assert source.asked_days.count(latest) == 1
            runs = await latest_runs(engine, 100)
            assert [run.outcome for run in runs if run.day == latest] == [RunOutcome.PUBLISHED]
            await audit(tally, engine, url, settled.complete)

    return begin


async def all_published(engine: AsyncEngine, settled: Settled) -> bool:
    """Return True if all days are published, and the runs that published them have ended."""
    running = [run for run in await latest_runs(engine, 100) if run.outcome is RunOutcome.RUNNING]
    return not running and (await stored(engine))[0] == settled.complete.keys()


async def test_the_lock_is_held_while_the_schedule_fires(
    begin: Begin, settled: Settled, midnight: datetime, tally: Tally
) -> None:
    async with begin(midnight + ONE - timedelta(minutes=1)) as (service, clock):
        async with job_engine(service.url) as other, ingest_lock(other):
            clock.shift(timedelta(minutes=2))
            await service.until_run(2)
            tally.faults["firings of the schedule while the lock was held"] += 1
            await audit_stored(tally, service.engine, settled.days)
        next_run = service.schedule.next_run
        assert next_run
        assert next_run - utc_now() <= scheduler.LOCK_TAKEN_PAUSE
        clock.move_to(next_run)


@pytest.mark.parametrize("hours", [9, 24 * 3 + 9], ids=["nine hours", "three days"])
async def test_the_machine_sleeps_while_the_schedule_fires(
    hours: int,
    begin: Begin,
    settled: Settled,
    latest: date,
    midnight: datetime,
    source: GivenSource,
    tally: Tally,
) -> None:
    """The wall clock has jumped when it wakes up, and the monotonic clock has not."""
    async with begin(midnight - timedelta(hours=3)) as (service, clock):
        assert latest not in source.asked_days, "it is not over"
        clock.shift(timedelta(hours=3 + hours))
        tally.faults["clock jumps"] += 1
        seconds = await until(lambda: all_published(service.engine, settled))
        tally.notes.append(
            f"the day was published {seconds:.2f} s after the clock jumped, with a look at the "
            f"clock every {CLOCK_CHECK_SECONDS:g} s"
        )
        assert service.schedule.next_run
        assert service.schedule.next_run > utc_now()


async def test_the_clock_is_set_right(
    begin: Begin,
    settled: Settled,
    latest: date,
    midnight: datetime,
    source: GivenSource,
    tally: Tally,
) -> None:
    """It was more than a year ahead, so that the job asked for days that are still to come."""
    async with begin(midnight + timedelta(days=DAYS_AHEAD)) as (service, clock):
        assert source.asked_days
        assert min(map(first_day, source.asked_days)) > latest
        clock.move_to(midnight + ONE - timedelta(minutes=1))
        tally.faults["clock jumps"] += 1
        await service.until_run(2)
        await audit_stored(tally, service.engine, settled.days)
        clock.shift(timedelta(minutes=1))
