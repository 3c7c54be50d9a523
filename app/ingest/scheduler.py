"""The daily job, inside the service's process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.advisory_lock import LockKey, try_lock
from app.db.engine import connect, job_engine
from app.db.ingest_repository import IngestRepository
from app.errors import StatsError
from app.ingest.pipeline import expire, ingest_day, latest_complete_day
from app.ingest.source import open_source
from app.metrics import observe_ingest
from app.settings import Settings

log = logging.getLogger(__name__)

DAILY_JOB = "daily-ingest"

JOB_TIMEOUT_SECONDS = 3600
"""After which a job that hangs makes room for the next."""


def due_at(schedule: str, latest_day: date) -> datetime:
    """When the day after `latest_day` is due: at the first firing after that day has ended."""
    ended = datetime.combine(latest_day + timedelta(days=2), time(), UTC)
    trigger = CronTrigger.from_crontab(schedule, timezone="UTC")
    firing: datetime | None = trigger.get_next_fire_time(None, ended)
    return firing or ended


def create_scheduler(schedule: str, job: Callable[[], Awaitable[None]]) -> AsyncIOScheduler:
    """A scheduler, not started, that runs the job at the cron expression `schedule`, in UTC."""
    scheduler = AsyncIOScheduler(timezone="UTC")
    scheduler.add_job(
        job,
        CronTrigger.from_crontab(schedule, timezone="UTC"),
        id=DAILY_JOB,
        name=DAILY_JOB,
        # Late is better than not at all, and twice late is once.
        misfire_grace_time=None,
        coalesce=True,
        max_instances=1,
    )
    return scheduler


async def run_daily_job(settings: Settings, database_url: str) -> None:
    """Publish the latest complete day unless it is published already, then apply retention.

    Of the processes that share a database one runs it. What fails is logged, and tried again at the
    next firing.
    """
    async with job_engine(database_url) as engine:
        try:
            with observe_ingest(settings.source) as run:
                async with asyncio.timeout(JOB_TIMEOUT_SECONDS):
                    run.success = await _run(engine, settings)
        except asyncio.CancelledError:
            log.info("daily job: stopped")
        except TimeoutError:
            log.error("daily job failed: it took more than %d seconds", JOB_TIMEOUT_SECONDS)
        except StatsError as error:
            log.error("daily job failed: %s", error)
        except Exception:
            log.exception("daily job failed")


async def _run(engine: AsyncEngine, settings: Settings) -> bool | None:
    """True when the job was done, None when another process does it."""
    async with connect(engine) as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        async with try_lock(connection, LockKey.DAILY_JOB) as ours:
            if not ours:
                log.info("daily job: another process is at it")
                return None
            day = latest_complete_day()
            if day in await IngestRepository(connection).published_sources():
                log.info("daily job: %s is published already", day)
            else:
                # In a thread: it imports Google's client, and that looks for credentials.
                source = await asyncio.to_thread(open_source, settings, settings.source)
                published = await ingest_day(
                    engine, source, day, retention_days=settings.retention_days
                )
                log.info("daily job: %s", published)
            expired = await expire(engine, retention_days=settings.retention_days)
            log.info("daily job: %s", expired)
            return True
