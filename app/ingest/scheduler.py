"""The ingest job, inside the service's process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.advisory_lock import HeldLock, LockKey, try_lock
from app.db.engine import connect, job_engine
from app.db.repositories.ingest_repository import IngestRepository
from app.db.repositories.runs_repository import RunsRepository
from app.domain.clock import Clock
from app.domain.schedule import Schedule
from app.errors import (
    HeldDayError,
    OperatorError,
    SourceDayError,
    SourceError,
    TableInUseError,
)
from app.ingest.plan import Plan, cadence_of, plan
from app.ingest.publish import Publisher
from app.ingest.release import release_plausible
from app.ingest.retention import expire
from app.ingest.runs import Run
from app.ingest.sources.source import open_source
from app.metrics import observe_ingest
from app.settings import Settings

log = logging.getLogger(__name__)

DAILY_JOB = "daily-ingest"
START_JOB = "ingest-at-start"
NEXT_JOB = "next-ingest"

LOOK_SECONDS = 60.0
"""How often the scheduler compares its jobs with the wall clock.

APScheduler waits by a clock that stops while the machine sleeps, and that does not follow when the
wall clock is set.
"""

TAKEN_PAUSE = timedelta(minutes=10)
"""Pause before the next attempt if another process is ingesting. That process may be killed
meanwhile.
"""


class IngestScheduler:
    """Runs the job at the start, at each firing of the schedule, and at times that it requests.

    The job returns the time at which it wants to run again, or None. At the start and at firings
    its argument is True, to catch up.
    """

    def __init__(
        self,
        schedule: Schedule,
        job: Callable[[bool], Awaitable[datetime | None]],
        clock: Clock,
    ) -> None:
        self._schedule = schedule
        self._job = job
        self._clock = clock
        self._running = asyncio.Lock()
        self._looks: asyncio.Task[None] | None = None
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={
                # A missed firing runs late, and several missed ones run once.
                "misfire_grace_time": None,
                "coalesce": True,
                # One run is in progress, and one waits for its end.
                "max_instances": 2,
            },
        )

    def start(self) -> None:
        self._scheduler.start()
        self._scheduler.add_job(self._run, self._schedule, args=[True], id=DAILY_JOB)
        self._scheduler.add_job(self._run, args=[True], id=START_JOB)
        self._looks = asyncio.create_task(self._follow_wall_clock())

    def stop(self) -> None:
        if self._looks:
            self._looks.cancel()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    @property
    def next_run(self) -> datetime | None:
        """Time of the next run, now at the earliest; None before the start."""
        times = [job.next_run_time for job in self._scheduler.get_jobs()]
        return max(min(times), self._clock()) if times else None

    async def _run(self, catch_up: bool) -> None:
        # A stop also cancels runs that wait.
        with suppress(asyncio.CancelledError):
            async with self._running:
                next_due = await self._job(catch_up)
            if next_due:
                self._run_by(next_due)

    def _run_by(self, moment: datetime) -> None:
        """Schedule a run at that moment, unless an earlier one is scheduled."""
        next_job = self._scheduler.get_job(NEXT_JOB)
        if next_job is None or moment < next_job.next_run_time:
            self._scheduler.add_job(
                self._run,
                DateTrigger(moment, timezone=UTC),
                args=[False],
                id=NEXT_JOB,
                replace_existing=True,
            )

    async def _follow_wall_clock(self) -> None:
        latest = self._clock()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._clock()
            if now < latest:
                log.warning("ingest: the clock was set back from %s to %s", latest, now)
                # All times were computed from the wrong clock.
                self._scheduler.reschedule_job(DAILY_JOB, trigger=self._schedule)
                self._run_by(now)
            latest = now
            self._scheduler.wakeup()


async def run_ingest_job(
    settings: Settings, database_url: str, clock: Clock, catch_up: bool = True
) -> datetime | None:
    """Publish the days that are due, with INGEST_MAX_DAYS_PER_RUN queries at most; then apply
    retention.

    Return when the job should run again, or None to wait for the schedule.

    Only one of the processes that share a database ingests. The others run again a little later
    without `catch_up`, which skips older missing days: otherwise each process would add days. A
    failure is logged and retried later.
    """
    async with job_engine(database_url) as engine:
        try:
            async with try_lock(engine, LockKey.INGEST) as lock:
                if lock is None:
                    log.info("ingest: another run is in progress")
                    return clock() + TAKEN_PAUSE
                with observe_ingest(settings.source, clock) as observed:
                    job = _Job(engine, settings, lock, clock)
                    try:
                        return await job.run(catch_up)
                    finally:
                        observed.success = job.success
        except asyncio.CancelledError:
            log.info("ingest: stopped")
            return None
        except TableInUseError as error:
            log.warning("ingest: %s", error)
            may_pass = True
        except OperatorError as error:
            log.error("ingest failed: %s", error)
            may_pass = error.may_pass
        except Exception:
            log.exception("ingest failed")
            may_pass = True
    return clock() + cadence_of(settings).retry_after if may_pass else None


class _Job:
    def __init__(
        self, engine: AsyncEngine, settings: Settings, lock: HeldLock, clock: Clock
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._cadence = cadence_of(settings)
        policy = replace(self._cadence.policy, only_if_changed=True)
        self._publisher = Publisher(engine, policy, clock, lock)
        self.success: bool | None = False
        """True if no day failed, or None if failed days wait and no other day was due."""

    async def run(self, catch_up: bool) -> datetime | None:
        runs = RunsRepository(self._engine)
        # If another process was killed, do its work too.
        catch_up = bool(await runs.note_interrupted()) or catch_up
        days = (await self._plan()).days(catch_up=catch_up)
        if not days:
            log.info("ingest: nothing is due")
        may_pass = await self._ingest(days)
        if not days and await runs.failures():
            self.success = None
        expired = await expire(self._engine, self._publisher.policy, self._clock())
        log.info("ingest: %s", expired)
        # Days that are still due exceeded the budget, or failed before anything was billed.
        next_due = (await self._plan()).next_due
        if not may_pass:
            return next_due
        again = self._clock() + self._cadence.retry_after
        return min(again, next_due) if next_due else again

    async def _plan(self) -> Plan:
        async with connect(self._engine) as connection:
            repository = IngestRepository(connection)
            published = await repository.published()
            held = await repository.held()
        failures = await RunsRepository(self._engine).failures()
        return plan(self._cadence, self._clock(), published, held, failures)

    async def _ingest(self, days: list[date]) -> bool:
        """Publish the days. Return True if one failed for a reason that may pass by itself."""
        may_pass = False
        success = True
        if days:
            # This imports Google's client and searches for credentials, which takes long.
            source = await asyncio.to_thread(open_source, self._settings, self._settings.source)
            async for outcome in Run(self._publisher, source).ingest(
                days, self._settings.ingest_max_days_per_run
            ):
                error = outcome.error
                if error is None:
                    log.info("ingest: %s", outcome)
                elif isinstance(error, HeldDayError):
                    log.warning("ingest: %s", outcome)
                else:
                    log.error("ingest: %s", outcome)
                    success = False
                    may_pass = may_pass or error.may_pass
                if isinstance(error, SourceError) and not isinstance(error, SourceDayError):
                    # The other days would fail in the same way.
                    break
        self.success = success
        async for published in release_plausible(self._publisher):
            log.warning("ingest: a held day has become plausible: %s", published)
        return may_pass
