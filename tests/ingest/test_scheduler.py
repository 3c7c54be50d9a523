"""The daily job: it fires, does its work once, and says what went wrong."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime

import pytest
import tzlocal
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.advisory_lock import LockKey, try_lock
from app.db.downloads_repository import DownloadsRepository
from app.db.engine import connect
from app.downloads import PackageDownloads
from app.ingest import pipeline, scheduler
from app.ingest.sample import SampleSource
from app.ingest.scheduler import DAILY_JOB, run_daily_job
from app.main import create_app
from app.settings import Settings
from tests.days import RETENTION_DAYS, GivenSource, days_ago, downloads, publish
from tests.processes import free_port


async def test_it_is_due_at_one_utc_by_default(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    tzlocal.reload_localzone()
    app = create_app(settings, database_url)
    async with app.router.lifespan_context(app):
        job = app.state.scheduler.get_job(DAILY_JOB)
        due = job.next_run_time.astimezone(UTC)
    assert (due.hour, due.minute) == (1, 0)
    assert (job.misfire_grace_time, job.coalesce, job.max_instances) == (None, True, 1)
    monkeypatch.undo()
    tzlocal.reload_localzone()


async def test_it_is_due_when_the_setting_says(database_url: str) -> None:
    app = create_app(Settings(ingest_schedule="30 4 * * *"), database_url)
    async with app.router.lifespan_context(app):
        due = app.state.scheduler.get_job(DAILY_JOB).next_run_time
    assert (due.hour, due.minute) == (4, 30)


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


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_nobody_thought_of_is_logged_without_secrets(
    database_url: str, log_format: str
) -> None:
    """In a process of its own, since logging is set up once in each."""
    script = """
import asyncio
from app.ingest import scheduler
from app.logs import configure_logging
from app.settings import load_settings

def fail(*arguments):
    raise ZeroDivisionError("nobody thought of it")

settings = load_settings()
configure_logging(settings.log_level, settings.log_format)
scheduler.open_source = fail
asyncio.run(scheduler.run_daily_job(settings, settings.database_url.get_secret_value()))
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


async def test_a_job_that_hangs_makes_room(
    database_url: str,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class HangingSource(GivenSource):
        async def read(self, day: date) -> AsyncIterator[Sequence[PackageDownloads]]:
            self.read_days.append(day)
            await asyncio.sleep(3600)
            yield []

    monkeypatch.setattr(scheduler, "JOB_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(scheduler, "open_source", lambda *_: HangingSource({}))
    await run_daily_job(settings, database_url)
    (record,) = caplog.records
    assert "daily job failed: it took more than" in record.getMessage()

    monkeypatch.setattr(scheduler, "JOB_TIMEOUT_SECONDS", 3600)
    caplog.clear()
    job = asyncio.create_task(run_daily_job(settings, database_url))
    await asyncio.sleep(0.3)
    with caplog.at_level(logging.INFO):
        job.cancel()
        await job
    assert "daily job: stopped" in caplog.text
