"""Dumps that the ingest job writes."""

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.downloads_repository import DownloadsRepository
from app.dumps.listing import DumpFormat
from app.dumps.stores.folder import DumpFolder
from app.ingest.scheduler import run_ingest_job
from app.settings import IngestSource, Settings
from tests.clock import ManualClock
from tests.processes import assert_fails, run


def _settings(folder: Path) -> Settings:
    changes = {
        "ingest_source": IngestSource.SAMPLE,
        "ingest_packages": ("flask", "requests"),
        "ingest_max_days_per_run": 2,
        "dumps_daily": True,
        "dumps_dir": folder,
    }
    return Settings().model_copy(update=changes)


async def test_each_run_writes_the_new_days(
    engine: AsyncEngine, database_url: str, clock: ManualClock, tmp_path: Path
) -> None:
    store = DumpFolder(tmp_path / "dumps")
    for runs in (1, 2):
        await run_ingest_job(_settings(store.path), database_url, clock)
        days = await DownloadsRepository(engine, 180).published_days()
        listed = {dump.day: dump for dump in store.dumps().data}
        assert len(days) == len(listed) == 2 * runs
        for day in days:
            dump = listed[day.day]
            assert (dump.digest, dump.packages, dump.format) == (day.digest, 2, DumpFormat.PARQUET)
            assert (store.path / dump.name).stat().st_size == dump.bytes


async def test_a_failing_export_does_not_disturb_the_job(
    engine: AsyncEngine,
    database_url: str,
    clock: ManualClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    next_run = await run_ingest_job(_settings(tmp_path / "file"), database_url, clock)
    assert len(await DownloadsRepository(engine, 180).published_days()) == 2
    assert next_run is None or next_run > clock()
    warnings = [one for one in caplog.records if one.getMessage().startswith("dumps: ")]
    assert len(warnings) == 1
    assert warnings[0].getMessage().endswith("the next run of the ingest job tries again")


async def test_two_processes_do_not_write_at_the_same_time(
    database_url: str, clock: ManualClock, tmp_path: Path
) -> None:
    """The folder is locked too, for example by the command."""
    store = DumpFolder(tmp_path / "dumps")
    with store.opened():
        await run_ingest_job(_settings(store.path), database_url, clock)
        assert store.dumps().data == ()


def test_a_start_fails_without_a_destination(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    common = {"DATABASE_URL": database_url, "DUMPS_DAILY": "true"}
    result = run("serve", INGEST_SOURCE="none", **common)
    assert_fails(result, 1, "DUMPS_DAILY: should be false with INGEST_SOURCE=none")
    result = run("serve", DUMPS_DIR=str(tmp_path / "file"), **common)
    assert_fails(result, 1, "DUMPS_DIR: should be a folder that can be written", "File exists")
