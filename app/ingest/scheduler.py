"""The ingest job, inside the service's process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from app.db.advisory_lock import LockKey, try_lock
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
from app.ingest.daily_dumps import write_dumps
from app.ingest.followed import forget_unfollowed
from app.ingest.plan import Plan, plan
from app.ingest.policy import policy_of
from app.ingest.publish import PublishContext, publish_plausible_held
from app.ingest.retention import expire
from app.ingest.rollup import roll_up_due
from app.ingest.runs import DayIngester
from app.ingest.sources.source import open_source
from app.metrics import JobRun, observe_ingest
from app.settings import Settings

log = logging.getLogger(__name__)

DAILY_JOB = "daily-ingest"
START_JOB = "ingest-at-start"
NEXT_JOB = "next-ingest"

CLOCK_CHECK_SECONDS = 60.0
"""How often the scheduler compares its jobs with the wall clock.

APScheduler waits by a clock that stops while the machine sleeps, and that does not follow when the
wall clock is set.
"""

LOCK_TAKEN_PAUSE = timedelta(minutes=10)
"""Pause before the next attempt if another process is ingesting. Another attempt is needed, because
that process may be killed.
"""


class IngestScheduler:
    """Runs the job at the start, at each firing of the schedule, and when the job asks for it.

    The job returns the time at which it asks to run again, or None. Its argument is `catch_up`,
    which is False for a run that the job asked for, and True for all others.
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
        self._clock_task: asyncio.Task[None] | None = None
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
        self._clock_task = asyncio.create_task(self._follow_wall_clock())

    def stop(self) -> None:
        if self._clock_task:
            self._clock_task.cancel()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    @property
    def next_run(self) -> datetime | None:
        """Time of the next run, not earlier than now. None before the start."""
        times = [job.next_run_time for job in self._scheduler.get_jobs()]
        return max(min(times), self._clock()) if times else None

    async def _run(self, catch_up: bool) -> None:
        # `stop` also cancels runs that wait for the lock.
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
            await asyncio.sleep(CLOCK_CHECK_SECONDS)
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
    """Publish the days that are due, with at most INGEST_MAX_DAYS_PER_RUN queries. Then roll up the
    months that are due, and apply retention.

    Return when the job should run again, or None to wait for the schedule.

    Only one of the processes that share a database ingests. The others run again a little later,
    with `catch_up` False. Such a run skips older missing days, because otherwise each process would
    read as many of them as the first one. A failure is logged and retried later.
    """
    async with job_engine(database_url) as engine:
        try:
            async with try_lock(engine, LockKey.INGEST) as lock:
                if lock is None:
                    log.info("ingest: another run is in progress")
                    return clock() + LOCK_TAKEN_PAUSE
                policy = replace(policy_of(settings), only_if_changed=True)
                context = PublishContext(engine, policy, clock, lock)
                with observe_ingest(settings.source, clock) as observed:
                    return await _ingest_due_days(settings, context, observed, catch_up)
        except asyncio.CancelledError:
            log.info("ingest: stopped")
            return None
        except TableInUseError as error:
            log.warning("ingest: %s", error)
            should_retry = True
        except OperatorError as error:
            log.error("ingest failed: %s", error)
            should_retry = error.is_temporary
        except Exception:
            log.exception("ingest failed")
            should_retry = True
    return clock() + _retry_after(settings) if should_retry else None


def _retry_after(settings: Settings) -> timedelta:
    return timedelta(minutes=settings.ingest_retry_after_minutes)


async def _ingest_due_days(
    settings: Settings, context: PublishContext, observed: JobRun, catch_up: bool
) -> datetime | None:
    runs = RunsRepository(context.engine)
    # If another process was killed, take over its older days too.
    catch_up = bool(await runs.record_interrupted()) or catch_up
    await forget_unfollowed(context)
    days = (await _plan(settings, context)).days(catch_up=catch_up)
    should_retry, success = False, True
    if days:
        # Use a thread, because importing Google's client and finding credentials takes long.
        source = await asyncio.to_thread(open_source, settings, settings.source)
        ingester = DayIngester(context, source)
        async for outcome in ingester.ingest(days, settings.ingest_max_days_per_run):
            error = outcome.error
            if error is None:
                log.info("ingest: %s", outcome)
            elif isinstance(error, HeldDayError):
                log.warning("ingest: %s", outcome)
            else:
                log.error("ingest: %s", outcome)
                success = False
                should_retry = should_retry or error.is_temporary
            if isinstance(error, SourceError) and not isinstance(error, SourceDayError):
                # The other days would fail in the same way.
                break
    else:
        log.info("ingest: nothing is due")
    # While failed days wait for a retry, a run without days is neither a success nor a failure.
    observed.success = success if days or not await runs.failures() else None
    async for published in publish_plausible_held(context):
        log.warning("ingest: a held day has become plausible: %s", published)
    async for month in roll_up_due(context, settings):
        log.info("ingest: rolled up %s", month)
    expired = await expire(context.engine, context.policy, context.clock())
    log.info("retention: %s", expired)
    if settings.dumps_daily:
        await write_dumps(settings, context)
    # Some days may still be due: those beyond INGEST_MAX_DAYS_PER_RUN, and those that failed before
    # anything was billed.
    next_due = (await _plan(settings, context)).next_due
    again = context.clock() + _retry_after(settings)
    return min(filter(None, (next_due, again if should_retry else None)), default=None)


async def _plan(settings: Settings, context: PublishContext) -> Plan:
    async with connect(context.engine) as connection:
        repository = IngestRepository(connection)
        published, held = await repository.published(), await repository.held()
    failures = await RunsRepository(context.engine).failures()
    return plan(settings, context.clock(), published, held, failures)
