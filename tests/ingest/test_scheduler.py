"""The daily job: it fires, does its work once, and says what went wrong."""

import asyncio
import logging
from datetime import UTC, datetime

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.advisory_lock import LockKey, try_lock
from app.db.downloads_repository import DownloadsRepository
from app.db.engine import connect
from app.ingest import pipeline
from app.ingest.sample import SampleSource
from app.ingest.scheduler import DAILY_JOB, create_scheduler, run_daily_job
from app.settings import Settings
from tests.days import RETENTION_DAYS, days_ago, downloads, publish
from tests.processes import free_port


async def test_it_is_due_at_one_by_default() -> None:
    async def job() -> None: ...

    scheduler = create_scheduler(Settings().ingest_schedule, job)
    scheduler.start(paused=True)
    due = scheduler.get_job(DAILY_JOB).next_run_time
    assert (due.hour, due.minute, due.utcoffset().total_seconds()) == (1, 0, 0)
    scheduler.shutdown()


async def test_it_fires_inside_the_service(app: FastAPI, engine: AsyncEngine) -> None:
    """Its next time is set to now: what runs is the service's scheduler, job and source."""
    repository = DownloadsRepository(engine, RETENTION_DAYS)
    old = days_ago(RETENTION_DAYS + 31)
    await pipeline.ingest_day(engine, SampleSource(), old, retention_days=RETENTION_DAYS)
    app.state.scheduler.get_job(DAILY_JOB).modify(next_run_time=datetime.now(UTC))
    async with asyncio.timeout(30):
        while not await _expired(engine):  # noqa: ASYNC110 - what it waits for is in the database
            await asyncio.sleep(0.05)
    assert [day.day for day in await repository.published_days()] == [days_ago(0)]


async def _expired(engine: AsyncEngine) -> bool:
    """Whether only the latest day is left, in whatever window."""
    days = await DownloadsRepository(engine, 3660).published_days()
    return [day.day for day in days] == [days_ago(0)]


async def test_what_is_published_is_left_as_it_is(
    database_url: str, engine: AsyncEngine, settings: Settings
) -> None:
    await run_daily_job(settings, database_url)
    (first,) = await DownloadsRepository(engine, RETENTION_DAYS).published_days()
    await run_daily_job(settings, database_url)
    assert await DownloadsRepository(engine, RETENTION_DAYS).published_days() == [first]


async def test_of_several_processes_one_does_it(
    database_url: str, engine: AsyncEngine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(engine) as other:
        await other.execution_options(isolation_level="AUTOCOMMIT")
        async with try_lock(other, LockKey.DAILY_JOB) as ours:
            assert ours
            with caplog.at_level(logging.INFO):
                await run_daily_job(settings, database_url)
    assert "another process is at it" in caplog.text
    assert not await DownloadsRepository(engine, RETENTION_DAYS).has_published()


async def test_a_failure_is_one_line_and_the_next_run_is_free(
    database_url: str, engine: AsyncEngine, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Real data is held, and the source is the sample."""
    await publish(engine, days_ago(1), downloads("flask", 1))
    for _ in range(2):
        caplog.clear()
        await run_daily_job(settings, database_url)
        (record,) = (record for record in caplog.records if record.levelname == "ERROR")
        assert "the database holds real data" in record.getMessage()
        assert record.exc_info is None


async def test_a_database_that_is_not_there_is_one_line(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await run_daily_job(settings, f"postgresql://u@127.0.0.1:{free_port()}/d")
    (record,) = caplog.records
    assert "can't be reached" in record.getMessage()
