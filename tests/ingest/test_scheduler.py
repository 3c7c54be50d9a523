"""The ingest job: when it runs, what it does, and what it says went wrong."""

import asyncio
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial

import pytest
import time_machine
import tzlocal
from prometheus_client import REGISTRY
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.advisory_lock import LockKey, try_lock
from app.db.engine import connect
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.runs_repository import RunsRepository, latest_runs
from app.db.tables import held_days, ingested_days
from app.domain.clock import Clock, utc_now
from app.domain.downloads import IngestRun, PackageDownloads, Partition, RunOutcome
from app.domain.months import Period
from app.domain.schedule import Schedule
from app.errors import HeldDayError, SourceDayError, SourceError, SourceUnavailableError
from app.ingest import scheduler
from app.ingest.publish import PublishContext
from app.ingest.runs import DayIngester
from app.ingest.scheduler import LOCK_TAKEN_PAUSE, IngestScheduler, run_ingest_job
from app.ingest.sources.sample import SampleSource
from app.ingest.sources.source import Source
from app.main import create_app
from app.settings import IngestSource, Settings
from tests.clock import NOW, ManualClock
from tests.days import (
    POLICY,
    RETENTION_DAYS,
    GivenSource,
    days_ago,
    downloads,
    ingest,
    publish,
)
from tests.processes import free_port
from tests.waiting import until


def settings_with(**changes: object) -> Settings:
    """Settings with which a day is due at midnight, as soon as it is over."""
    values = {"ingest_source": IngestSource.SAMPLE, "ingest_schedule": "0 0 * * *"} | changes
    return Settings.model_validate(values)


@pytest.fixture
def settings() -> Settings:
    return settings_with(ingest_max_days_per_run=3, rate_limits="")


async def published(engine: AsyncEngine) -> list[date]:
    days = await DownloadsRepository(engine, RETENTION_DAYS).published_days()
    return [day.day for day in days]


async def history(engine: AsyncEngine) -> list[IngestRun]:
    return await latest_runs(engine, 100)


def give(monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    monkeypatch.setattr(scheduler, "open_source", lambda *_: source)


# When it runs


DAILY = Schedule("0 1 * * *")


@pytest.fixture
def impatient_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "CLOCK_CHECK_SECONDS", 0.02)


def test_the_wall_clock_is_checked_often_enough() -> None:
    """The job starts within two minutes after the wall clock has passed its time."""
    assert scheduler.CLOCK_CHECK_SECONDS <= 120


@dataclass
class RecordedJob:
    """A job that records when it runs, and answers with the times it was given."""

    answers: list[datetime] = field(default_factory=list)
    ran: list[tuple[datetime, bool]] = field(default_factory=list)

    async def __call__(self, catch_up: bool) -> datetime | None:
        self.ran.append((utc_now(), catch_up))
        return self.answers.pop(0) if self.answers else None


@contextmanager
def running(job: RecordedJob, schedule: Schedule = DAILY) -> Iterator[IngestScheduler]:
    ingests = IngestScheduler(schedule, job, utc_now)
    ingests.start()
    try:
        yield ingests
    finally:
        ingests.stop()


async def test_the_job_runs_at_the_start_and_at_one_utc_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    tzlocal.reload_localzone()
    job = RecordedJob()
    assert IngestScheduler(DAILY, job, utc_now).next_run is None
    with running(job, Settings().ingest_schedule) as ingests:
        await until(lambda: job.ran)
        assert job.ran[0][1], "it catches up"
        await until(lambda: ingests.next_run == DAILY.next_firing(utc_now()))
    monkeypatch.undo()
    tzlocal.reload_localzone()


async def test_the_job_runs_again_at_the_time_it_returned() -> None:
    with time_machine.travel(datetime(2026, 11, 28, 12, tzinfo=UTC), tick=True):
        job = RecordedJob([utc_now() + timedelta(seconds=0.3), utc_now() + timedelta(seconds=0.6)])
        first, second = job.answers
        with running(job) as ingests:
            await until(lambda: len(job.ran) == 3)
            await until(lambda: ingests.next_run == DAILY.next_firing(utc_now()))
    assert [catch_up for _, catch_up in job.ran] == [True, False, False]
    assert job.ran[1][0] >= first
    assert job.ran[2][0] >= second


@pytest.mark.parametrize("earlier_first", [True, False])
async def test_the_earliest_due_time_wins(earlier_first: bool) -> None:
    """A run that ends later postpones nothing."""
    with time_machine.travel(datetime(2026, 11, 28, 1, 1, tzinfo=UTC), tick=True):
        times = [utc_now() + timedelta(minutes=10), utc_now() + timedelta(hours=23)]
        job = RecordedJob(list(times) if earlier_first else times[::-1])
        with running(job) as ingests:
            await until(lambda: job.ran)
            await ingests._run(catch_up=False)
            assert ingests.next_run == times[0]


async def test_the_job_runs_after_the_wall_clock_jumped_past_its_time(
    impatient_looks: None,
) -> None:
    """The wall clock jumps and the monotonic clock does not, as after a sleep of the machine."""
    with time_machine.travel(datetime(2026, 11, 28, tzinfo=UTC), tick=True) as clock:
        job = RecordedJob()
        with running(job) as ingests:
            await until(lambda: job.ran)
            clock.shift(timedelta(days=3, hours=9))
            assert ingests.next_run
            assert utc_now() - ingests.next_run < timedelta(seconds=1), "not in the past"
            await until(lambda: len(job.ran) == 2)
            assert job.ran[1][1], "it catches up"
            await until(lambda: ingests.next_run == datetime(2026, 12, 2, 1, tzinfo=UTC))
        assert len(job.ran) == 2, "once for all firings"


async def test_a_follow_up_runs_after_the_wall_clock_jumped_past_its_time(
    impatient_looks: None,
) -> None:
    with time_machine.travel(datetime(2026, 11, 28, 2, tzinfo=UTC), tick=True) as clock:
        job = RecordedJob([utc_now() + timedelta(hours=2)])
        with running(job):
            await until(lambda: job.ran)
            clock.shift(timedelta(hours=3))
            await until(lambda: len(job.ran) == 2)


async def test_the_job_follows_the_clock_after_it_was_set_back(impatient_looks: None) -> None:
    right = datetime(2026, 11, 28, tzinfo=UTC)
    with time_machine.travel(right + timedelta(days=400), tick=True) as clock:
        job = RecordedJob([utc_now() + timedelta(hours=2)])
        with running(job) as ingests:
            await until(lambda: job.ran)
            clock.move_to(right)
            # What is due is asked anew, by the new time.
            await until(lambda: len(job.ran) == 2)
            await until(lambda: ingests.next_run == right + timedelta(hours=1))
            clock.move_to(right + timedelta(hours=1))
            await until(lambda: len(job.ran) == 3)


async def test_a_firing_during_a_run_comes_after_it(impatient_looks: None) -> None:
    """This is so for any number of firings, and for any time at which a run is due again."""
    is_over = asyncio.Event()

    class LongJob(RecordedJob):
        async def __call__(self, catch_up: bool) -> datetime | None:
            await super().__call__(catch_up)
            await is_over.wait()
            return utc_now() + timedelta(hours=23)

    with time_machine.travel(datetime(2026, 11, 28, 0, 59, tzinfo=UTC), tick=True) as clock:
        job = LongJob()
        with running(job) as ingests:
            await until(lambda: job.ran)
            for day in (29, 30):
                clock.shift(timedelta(days=1))
                await until(partial(_is_next, ingests, datetime(2026, 11, day, 1, tzinfo=UTC)))
            assert len(job.ran) == 1
            is_over.set()
            await until(lambda: len(job.ran) > 1)
            assert job.ran[1][1], "it catches up"


def _is_next(ingests: IngestScheduler, moment: datetime) -> bool:
    return ingests.next_run == moment


async def test_a_run_that_waits_is_stopped_quietly(caplog: pytest.LogCaptureFixture) -> None:
    is_over = asyncio.Event()

    class LongJob(RecordedJob):
        async def __call__(self, catch_up: bool) -> datetime | None:
            await super().__call__(catch_up)
            await is_over.wait()
            return None

    job = LongJob()
    with running(job) as ingests:
        await until(lambda: job.ran)
        ingests._run_by(utc_now())
        await until(lambda: not ingests._scheduler.get_job("next-ingest"))
    is_over.set()
    await until(lambda: not ingests._scheduler.running)
    assert caplog.records == []


async def test_the_job_runs_inside_the_service(
    settings: Settings, database_url: str, engine: AsyncEngine
) -> None:
    """Retention drops one of the days."""
    old = days_ago(RETENTION_DAYS + 31)
    await ingest(engine, SampleSource(), old)
    app = create_app(settings, database_url)

    async def is_done() -> bool:
        days = await DownloadsRepository(engine, 3660).published_days()
        return [day.day for day in days] == [days_ago(2), days_ago(1), days_ago(0)]

    with time_machine.travel(NOW, tick=True):
        async with app.running():
            await until(is_done)
            next_run = app.state.next_run()
            assert next_run
            assert next_run > utc_now()


async def test_a_process_that_only_serves_has_no_job(
    database_url: str, engine: AsyncEngine
) -> None:
    app = create_app(Settings(ingest_source=IngestSource.NONE), database_url)
    async with app.running():
        assert app.state.next_run() is None
    assert await history(engine) == []


# What it does


async def test_the_job_catches_up_latest_first_within_its_budget(
    database_url: str, engine: AsyncEngine, settings: Settings
) -> None:
    sample = SampleSource()
    for ago in (1, 5):
        await ingest(engine, sample, days_ago(ago))
    assert await run_ingest_job(settings, database_url, lambda: NOW)
    assert await published(engine) == [days_ago(ago) for ago in (5, 3, 2, 1, 0)]
    assert [run.day for run in await history(engine)] == [days_ago(ago) for ago in (3, 2, 0)]
    await run_ingest_job(settings, database_url, lambda: NOW)
    assert await published(engine) == [days_ago(ago) for ago in (7, 6, 5, 4, 3, 2, 1, 0)]


@pytest.mark.parametrize("budget", [1, 2, 3])
async def test_checks_of_unchanged_days_use_up_no_budget(
    budget: int, database_url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is so even if the latest day has used it up. A changed held day is read within it."""
    settings = settings_with(
        ingest_max_days_per_run=budget, ingest_recheck_after_hours=0, retention_days=30
    )
    for ago in range(5, 26):
        await publish(engine, days_ago(ago), downloads("flask", 100))
    held = [days_ago(ago) for ago in (2, 3, 4)]
    rows = {days_ago(ago): [downloads("flask", 100)] for ago in (0, 1, 26, 27, 28)}
    source = GivenSource(rows | {day: [downloads("flask", 1)] for day in held})
    source.partitions = {day: Partition(1, NOW) for day in [*held, *rows]}
    give(monkeypatch, source)
    policy = replace(POLICY, retention_days=30)
    for day in held:
        with pytest.raises(HeldDayError):
            await ingest(engine, source, day, policy)
    source.partitions = {**source.partitions, held[0]: Partition(2, NOW)}
    source.asked_days.clear()
    await run_ingest_job(settings, database_url, later(timedelta(hours=1)))
    assert source.asked_days == [days_ago(0), held[0], days_ago(1)][:budget]
    waiting = await DownloadsRepository(engine, 30).held_days()
    assert {day.day: day.readings for day in waiting} == {
        held[0]: min(budget, 2),
        held[1]: 2,
        held[2]: 2,
    }


async def test_a_partition_that_changes_after_its_check_does_not_lift_the_budget(
    engine: AsyncEngine,
) -> None:
    days = [days_ago(ago) for ago in (2, 3, 4)]
    first, second, _ = days

    class ChangingSource(GivenSource):
        async def partition(self, day: date) -> Partition | None:
            checks[day] += 1
            # The second day changes between its check and its reading, the others before.
            return Partition(1 if checks[day] <= 1 + (day == second) else 2, NOW)

    checks = Counter[date]()
    source = ChangingSource({day: [downloads("flask", 100)] for day in days})
    for day in days:
        await ingest(engine, source, day)
    source.asked_days.clear()
    context = PublishContext(engine, replace(POLICY, only_if_changed=True), lambda: NOW)
    async for _ in DayIngester(context, source).ingest(days, max_queries=1):
        pass
    assert source.asked_days == [first, second]


async def test_published_days_are_not_read_again(database_url: str, engine: AsyncEngine) -> None:
    settings = settings_with(retention_days=30, ingest_max_days_per_run=30)
    await run_ingest_job(settings, database_url, lambda: NOW)
    first = await DownloadsRepository(engine, 30).published_days()
    assert len(first) == 30
    await run_ingest_job(settings, database_url, lambda: NOW)
    assert await DownloadsRepository(engine, 30).published_days() == first
    assert len(await history(engine)) == 30


async def test_a_recent_day_is_replaced_if_it_grew(
    database_url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(ingest_max_days_per_run=2, retention_days=30)
    early, late = days_ago(1), days_ago(0)
    for ago in range(2, 30):
        await publish(engine, days_ago(ago), downloads("flask", 100))
    source = GivenSource(
        {early: [downloads("flask", 100)], late: [downloads("flask", 120, mirrors=1)]}
    )
    give(monkeypatch, source)
    await run_ingest_job(settings, database_url, lambda: NOW)
    assert source.asked_days == [late, early]
    # As if they had been read an hour after their ends.
    async with connect(engine) as connection:
        await connection.execute(
            update(ingested_days)
            .where(ingested_days.c.day.in_([early, late]))
            .values(checked_at=ingested_days.c.day + timedelta(hours=25))
        )
        await connection.commit()
    source.asked_days.clear()
    source.days = {early: [downloads("flask", 110)]}
    due = await run_ingest_job(settings, database_url, lambda: NOW)
    assert source.asked_days == [early], "its end is a day and more ago"
    # The other one is checked when a day has passed since its end.
    assert due == datetime.combine(late + timedelta(days=2), datetime.min.time(), UTC)
    days = await DownloadsRepository(engine, RETENTION_DAYS).published_days()
    assert [(day.day, day.downloads) for day in days[-2:]] == [(early, 110), (late, 120)]

    source.asked_days.clear()
    source.days = {late: [downloads("flask", 119, mirrors=1)]}
    await run_ingest_job(settings, database_url, later(timedelta(days=1)))
    assert source.asked_days[-1] == late
    days = await DownloadsRepository(engine, RETENTION_DAYS).published_days()
    assert days[-1].downloads == 120, "what the source has less of stays"
    assert {run.outcome for run in await history(engine) if run.day == late} == {
        "published",
        "unchanged",
    }


def _daily_from_now_on() -> str:
    """A schedule by which yesterday is due, and today will not be when the clock is moved on past
    midnight.
    """
    now = NOW
    return f"{now.minute} {now.hour} * * *"


def later(passed: timedelta) -> Clock:
    return lambda: NOW + passed


async def test_late_data_that_arrives_in_three_parts(
    database_url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held, held again with more, published: never a part of it served."""
    settings = settings_with(
        ingest_schedule=_daily_from_now_on(),
        ingest_max_days_per_run=1,
        ingest_retry_after_minutes=30,
    )
    for weeks in (1, 2, 3):
        await publish(engine, days_ago(7 * weeks), *(downloads(f"p{n}", 10) for n in range(100)))
    day = days_ago(0)
    for number, packages in enumerate((20, 60, 98)):
        give(
            monkeypatch,
            GivenSource({day: [downloads(f"p{n}", 10) for n in range(packages)]}),
        )
        wait = timedelta(minutes=30 * 2**number - 30)
        due = await run_ingest_job(settings, database_url, later(wait))
        held = await DownloadsRepository(engine, RETENTION_DAYS).held_days()
        if packages < 98:
            assert days_ago(0) not in await published(engine)
            (waiting,) = held
            assert (waiting.packages, waiting.readings) == (packages, number + 1)
            assert "packages instead of " in waiting.reason
            assert due == waiting.read_at + timedelta(minutes=30 * 2**number)
            # Real time has not passed: the next reading is due when the clock is moved on.
            async with connect(engine) as connection:
                await connection.execute(
                    update(held_days).values(read_at=NOW - timedelta(minutes=30))
                )
                await connection.commit()
        else:
            assert held == []
            assert days_ago(0) in await published(engine)
    assert [run.outcome for run in await history(engine)] == ["published", "held", "held"]


async def test_a_new_level_is_published_after_some_days(
    database_url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times as much from one day on: held, read again, and then all of it is published."""
    settings = settings_with(
        ingest_schedule=_daily_from_now_on(),
        ingest_max_days_per_run=4,
        retention_days=30,
        ingest_recheck_after_hours=0,
    )
    for ago in range(4, 30):
        await publish(engine, days_ago(ago), downloads("flask", 100))
    source = GivenSource({days_ago(ago): [downloads("flask", 300)] for ago in range(4)})
    give(monkeypatch, source)
    await run_ingest_job(settings, database_url, lambda: NOW)
    held = await DownloadsRepository(engine, 30).held_days()
    assert len(held) == 4
    await run_ingest_job(settings, database_url, later(timedelta(minutes=31)))
    assert await published(engine) == [days_ago(ago) for ago in range(29, 3, -1)], "it may stall"
    # As if the first reading had been six hours ago.
    async with connect(engine) as connection:
        await connection.execute(update(held_days).values(same_since=NOW - timedelta(hours=6)))
        await connection.commit()
    await run_ingest_job(settings, database_url, later(timedelta(minutes=93)))
    assert await published(engine) == [days_ago(ago) for ago in range(29, -1, -1)]
    assert await DownloadsRepository(engine, 30).held_days() == []
    days = await DownloadsRepository(engine, 30).published_days()
    assert [day.day for day in days if day.suspect_reason] == [
        days_ago(ago) for ago in (3, 2, 1, 0)
    ]


async def test_waiting_processes_read_no_additional_days(
    database_url: str, engine: AsyncEngine, settings: Settings
) -> None:
    await run_ingest_job(settings, database_url, lambda: NOW)
    for _ in range(3):
        await run_ingest_job(settings, database_url, lambda: NOW, catch_up=False)
    assert len(await published(engine)) == settings.ingest_max_days_per_run
    # Unless that one was killed.
    await RunsRepository(engine).begin(days_ago(5), "sample", NOW)
    await run_ingest_job(settings, database_url, lambda: NOW, catch_up=False)
    assert len(await published(engine)) == 2 * settings.ingest_max_days_per_run


async def test_a_day_that_the_source_refuses_does_not_stop_the_job(
    database_url: str, engine: AsyncEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RefusingSource(GivenSource):
        async def begin(self, day: Period) -> str | None:
            await super().begin(day)
            if day == days_ago(0):
                raise SourceDayError("BigQuery: Query exceeded limit for bytes billed")
            return None

    give(monkeypatch, RefusingSource({days_ago(ago): [downloads("a", 1)] for ago in range(9)}))
    await run_ingest_job(settings, database_url, lambda: NOW)
    assert await published(engine) == [days_ago(2), days_ago(1)]


def _success() -> float | None:
    return REGISTRY.get_sample_value("pypi_stats_last_ingest_success", {"source": "sample"})


async def test_a_run_without_work_does_not_hide_that_days_fail(
    database_url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(retention_days=30)
    for ago in range(1, 31):
        await publish(engine, days_ago(ago), downloads("flask", 1))
    give(monkeypatch, GivenSource({}))
    await run_ingest_job(settings, database_url, lambda: NOW)
    assert _success() == 0
    await run_ingest_job(settings, database_url, lambda: NOW)
    assert _success() == 0, "the day waits for its next reading"
    await publish(engine, days_ago(0), downloads("flask", 1))
    run = await RunsRepository(engine).begin(days_ago(0), "given", NOW)
    await RunsRepository(engine).end(run, RunOutcome.PUBLISHED, NOW)
    await run_ingest_job(settings, database_url, lambda: NOW)
    assert _success() == 1


async def test_temporary_failures_are_retried_soon(
    database_url: str,
    engine: AsyncEngine,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    quick_retries: None,
) -> None:
    """The other days are not read meanwhile."""
    broken = GivenSource({days_ago(0): [SourceUnavailableError("broke off")]})
    give(monkeypatch, broken)
    before = NOW
    due = await run_ingest_job(settings, database_url, lambda: NOW)
    assert due
    assert timedelta(minutes=29) < due - before < timedelta(minutes=31)
    assert set(broken.asked_days) == {days_ago(0)}
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert record.getMessage() == f"ingest: {days_ago(0)} failed: broke off"


async def test_permanent_failures_wait_for_the_schedule(
    database_url: str,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class RefusingSource(GivenSource):
        async def begin(self, day: Period) -> str | None:
            await super().begin(day)
            raise SourceError("BigQuery: Access Denied")

    source = RefusingSource({})
    give(monkeypatch, source)
    assert await run_ingest_job(settings, database_url, lambda: NOW) is None
    assert source.asked_days == [days_ago(0)]
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert record.getMessage() == f"ingest: {days_ago(0)} failed: BigQuery: Access Denied"
    assert record.exc_info is None


async def test_a_day_that_fails_after_its_query_is_retried_at_growing_intervals(
    database_url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is restarted often. Earlier days are ingested meanwhile."""
    settings = settings_with(ingest_schedule=_daily_from_now_on(), ingest_max_days_per_run=1)
    twice = [downloads("flask", 1), downloads("flask", 1)]
    usual = [downloads("flask", 1), downloads("numpy", 1)]
    source = GivenSource({days_ago(ago): usual for ago in range(1, 9)} | {days_ago(0): twice})
    give(monkeypatch, source)
    for passed in (0, 10, 29, 31, 60, 89, 92):
        await run_ingest_job(settings, database_url, later(timedelta(minutes=passed)))
    asked = [number for number, day in enumerate(source.asked_days) if day == days_ago(0)]
    assert asked == [0, 3, 6], "at once, after 31 minutes and after 61 more"


async def test_a_process_that_finds_another_one_ingesting_reads_the_latest_day_later(
    database_url: str, engine: AsyncEngine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The older missing days are left for the schedule."""
    clock = ManualClock()
    async with try_lock(engine, LockKey.INGEST) as ours:
        assert ours
        with caplog.at_level(logging.INFO):
            due = await run_ingest_job(settings, database_url, clock)
        assert "another run is in progress" in caplog.text
        assert due == clock.now + LOCK_TAKEN_PAUSE
        assert not await published(engine)
    await run_ingest_job(settings, database_url, clock, catch_up=False)
    assert await published(engine) == [days_ago(0)]
    await run_ingest_job(settings, database_url, clock, catch_up=False)
    assert await published(engine) == [days_ago(0)]


async def test_the_latest_day_is_read_soon_after_a_database_outage(
    database_url: str, engine: AsyncEngine, settings: Settings
) -> None:
    away = f"postgresql://u@127.0.0.1:{free_port()}/d"
    clock = ManualClock()
    assert await run_ingest_job(settings, away, clock) == clock.now + timedelta(minutes=30)
    await run_ingest_job(settings, database_url, clock, catch_up=False)
    assert await published(engine) == [days_ago(0)]


async def test_a_failure_is_one_line_and_the_next_run_is_free(
    database_url: str, engine: AsyncEngine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Real data is held, and the source is the sample."""
    await publish(engine, days_ago(1), downloads("flask", 1))
    for _ in range(2):
        caplog.clear()
        assert await run_ingest_job(settings, database_url, lambda: NOW) is None
        (record,) = (record for record in caplog.records if record.levelname == "ERROR")
        assert "the database holds real data" in record.getMessage()
        assert record.exc_info is None


async def test_an_unreachable_database_is_one_log_line(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    assert await run_ingest_job(settings, f"postgresql://u@127.0.0.1:{free_port()}/d", lambda: NOW)
    (record,) = caplog.records
    assert "can't be reached" in record.getMessage()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_unexpected_error_is_logged_without_secrets(database_url: str, log_format: str) -> None:
    """In a process of its own, since logging is set up once in each."""
    script = """
import asyncio
from app.domain.clock import utc_now
from app.ingest import scheduler
from app.logs import configure_logging
from app.settings import load_settings

def fail(*arguments):
    raise ZeroDivisionError("nobody thought of it")

settings = load_settings()
configure_logging(settings.log_level, settings.log_format)
scheduler.open_source = fail
asyncio.run(scheduler.run_ingest_job(settings, settings.database_url.get_secret_value(), utc_now))
"""
    url = database_url.replace("postgres@", "postgres:TopSecret@")
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"DATABASE_URL": url, "LOG_FORMAT": log_format},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nobody thought of it" in result.stderr
    assert "scheduler.py" in result.stderr
    assert "TopSecret" not in result.stderr


async def test_a_stopped_job_is_logged(
    database_url: str,
    engine: AsyncEngine,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()

    class HangingSource(GivenSource):
        async def _batches(self, day: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
            begun.set()
            await asyncio.sleep(3600)
            yield [downloads(str(day), 1)]

    give(monkeypatch, HangingSource({}))
    job = asyncio.create_task(run_ingest_job(settings, database_url, lambda: NOW))
    await begun.wait()
    with caplog.at_level(logging.INFO):
        job.cancel()
        assert await job is None
    assert "ingest: stopped" in caplog.text
    (run,) = await history(engine)
    assert run.outcome == "stopped"
    # Nobody is in the way of the next one.
    async with try_lock(engine, LockKey.INGEST) as lock:
        assert lock
