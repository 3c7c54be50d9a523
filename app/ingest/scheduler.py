"""The ingest job, inside the service's process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.db.advisory_lock import HeldLock, LockKey, try_lock
from app.db.engine import connect, job_engine
from app.db.ingest_repository import IngestRepository
from app.db.runs_repository import RunsRepository
from app.errors import (
    HeldDayError,
    SourceDayError,
    SourceError,
    StatsError,
    TableInUseError,
)
from app.ingest.plan import Plan, cadence_of, plan
from app.ingest.plausibility import thresholds_of
from app.ingest.retention import expire
from app.ingest.runs import Run, release_plausible
from app.ingest.source import open_source
from app.metrics import observe_ingest
from app.schedule import Schedule
from app.settings import Settings

log = logging.getLogger(__name__)

DAILY_JOB = "daily-ingest"
START_JOB = "ingest-at-start"
NEXT_JOB = "next-ingest"

TAKEN_PAUSE = timedelta(minutes=10)
"""After which a process looks again, when another was ingesting: that one may have been killed."""


class IngestScheduler:
    """Runs the job at the service's start and at each firing of the schedule, to catch up; and in
    between when the job says that something will be due again.
    """

    def __init__(
        self, schedule: Schedule, job: Callable[[bool], Awaitable[datetime | None]]
    ) -> None:
        self._job = job
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        self._scheduler.add_job(
            self._run,
            schedule.trigger,
            args=[True],
            id=DAILY_JOB,
            # Late is better than not at all, and twice late is once.
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
        )

    def start(self) -> None:
        self._scheduler.start()
        self._run_at(datetime.now(UTC), START_JOB, catch_up=True)

    def stop(self) -> None:
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    @property
    def next_run(self) -> datetime | None:
        """None before the start."""
        times = [getattr(job, "next_run_time", None) for job in self._scheduler.get_jobs()]
        return min(filter(None, times), default=None)

    async def _run(self, catch_up: bool) -> None:
        next_due = await self._job(catch_up)
        if next_due:
            self._run_at(next_due, NEXT_JOB, catch_up=False)

    def _run_at(self, moment: datetime, name: str, *, catch_up: bool) -> None:
        self._scheduler.add_job(
            self._run,
            DateTrigger(moment, timezone="UTC"),
            args=[catch_up],
            id=name,
            misfire_grace_time=None,
            replace_existing=True,
            # The one that asks for it may be about to end.
            max_instances=2,
        )


async def run_ingest_job(
    settings: Settings, database_url: str, catch_up: bool = True
) -> datetime | None:
    """Publish what is due, latest day first, up to INGEST_MAX_DAYS_PER_RUN days; then apply
    retention. Says when something more will be due, as far as the schedule does not say it.

    Without `catch_up` only days that were read before: so the processes that find another at it,
    and look again a little later, do not each add days of their own. Of the processes that share a
    database one runs it. What fails is logged, and tried again.
    """
    async with job_engine(database_url) as engine:
        try:
            async with try_lock(engine, LockKey.INGEST) as lock:
                if lock is None:
                    log.info("ingest: another process is at it")
                    return datetime.now(UTC) + TAKEN_PAUSE
                with observe_ingest(settings.source, utc_now) as observed:
                    job = _Job(engine, settings, lock)
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
        except StatsError as error:
            log.error("ingest failed: %s", error)
            may_pass = error.may_pass
        except Exception:
            log.exception("ingest failed")
            may_pass = True
    return datetime.now(UTC) + cadence_of(settings).retry_after if may_pass else None


class _Job:
    def __init__(self, engine: AsyncEngine, settings: Settings, lock: HeldLock) -> None:
        self._engine = engine
        self._settings = settings
        self._lock = lock
        self._cadence = cadence_of(settings)
        self._thresholds = thresholds_of(settings)
        self.success: bool | None = False
        """None when there was nothing to do, and what has failed waits for its time."""

    async def run(self, catch_up: bool) -> datetime | None:
        runs = RunsRepository(self._engine)
        # Whoever was at it before was killed: what it was about to do is for us.
        catch_up = bool(await runs.note_interrupted()) or catch_up
        plan = await self._plan()
        days = plan.due if catch_up else plan.again
        if not days:
            log.info("ingest: nothing is due")
        may_pass = await self._ingest(days[: self._settings.ingest_max_days_per_run])
        if not days and await runs.failures():
            self.success = None
        retention_days = self._settings.retention_days
        log.info("ingest: %s", await expire(self._engine, retention_days=retention_days))
        # What is due now was left for the next run, or failed before it cost anything.
        next_due = (await self._plan()).next_due
        if not may_pass:
            return next_due
        again = datetime.now(UTC) + self._cadence.retry_after
        return min(again, next_due) if next_due else again

    async def _plan(self) -> Plan:
        async with connect(self._engine) as connection:
            repository = IngestRepository(connection)
            published = await repository.published()
            held = await repository.held()
        failures = await RunsRepository(self._engine).failures()
        return plan(self._cadence, datetime.now(UTC), published, held, failures)

    async def _ingest(self, days: list[date]) -> bool:
        """Whether there is something to try again that may pass by itself."""
        may_pass = False
        success = True
        if days:
            # In a thread: it imports Google's client, and that looks for credentials.
            source = await asyncio.to_thread(open_source, self._settings, self._settings.source)
            run = Run(
                self._engine,
                source,
                self._lock,
                retention_days=self._settings.retention_days,
                thresholds=self._thresholds,
                only_if_grown=True,
            )
            async for outcome in run.ingest(days):
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
                    # The other days would meet the same.
                    break
        self.success = success
        async for published in release_plausible(
            self._engine,
            self._lock,
            retention_days=self._settings.retention_days,
            thresholds=self._thresholds,
        ):
            log.warning("ingest: what was held has become plausible: %s", published)
        return may_pass
