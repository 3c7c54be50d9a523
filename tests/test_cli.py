"""The command line, as processes: what it does, prints, and answers to what is wrong."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from datetime import timedelta

import click
import pytest
from google.cloud import bigquery
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli import cli
from app.db.downloads_repository import DownloadsRepository
from tests.bigquery_table import NOON, Event, Table
from tests.days import RETENTION_DAYS, days_ago, downloads, publish
from tests.processes import ROOT, assert_fails, free_port, run


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ["Missing command"]),
        (("fetch",), ["fetch"]),
        (("ingest", "--date", "yesterday"), ["--date", "yesterday", "%Y-%m-%d"]),
        (("ingest", "--date", "2026-02-30"), ["--date", "2026-02-30"]),
        (("ingest", "--source", "csv"), ["--source", "'bigquery', 'sample'"]),
        (("ingest", "2026-11-20"), ["2026-11-20"]),
        (("backfill",), ["--start"]),
        (("backfill", "--start", "2026-06-02", "--end", "2026-06-01"), ["after --end"]),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], parts: list[str]) -> None:
    assert_fails(run(*arguments), 2, *parts)


def test_a_wrong_setting_is_named() -> None:
    assert_fails(run("serve", PORT="http"), 1, "PORT=http")


@pytest.mark.parametrize("command", ["serve", "migrate", "ingest", "expire", "seed", "status"])
def test_a_database_that_is_not_there(command: str) -> None:
    port = free_port()
    url = f"postgresql://somebody:secret@127.0.0.1:{port}/stats"
    result = run(command, DATABASE_URL=url)
    assert_fails(result, 1, "127.0.0.1", "can't be reached")
    assert "secret" not in result.stderr


async def test_a_database_that_is_further_than_the_code(
    database_url: str, engine: AsyncEngine
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for command in ("serve", "status"):
        assert_fails(run(command, DATABASE_URL=database_url), 1, "9999", "further than this code")


async def test_a_database_that_refuses(database_url: str, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE packages RENAME TO things"))
    assert_fails(run("status", DATABASE_URL=database_url), 1, '"packages" does not exist')


def test_a_future_day(database_url: str) -> None:
    tomorrow = str(days_ago(-2))
    for arguments in (("ingest", "--date", tomorrow), ("backfill", "--start", tomorrow)):
        end = () if arguments[0] == "ingest" else ("--end", tomorrow)
        result = run(*arguments, *end, DATABASE_URL=database_url)
        assert_fails(result, 1, tomorrow, f"latest complete one is {days_ago(0)}")


async def test_ingest(database_url: str, engine: AsyncEngine) -> None:
    result = run("ingest", "--source", "sample", DATABASE_URL=database_url)
    assert result.returncode == 0
    assert result.stdout.startswith(f"published {days_ago(0)} from sample: 200 packages, ")
    result = run("ingest", "--date", str(days_ago(3)), DATABASE_URL=database_url)
    assert result.returncode == 0
    days = await DownloadsRepository(engine, RETENTION_DAYS).published_days()
    assert [day.day for day in days] == [days_ago(3), days_ago(0)]


def test_dry_run_of_the_sample_needs_nothing() -> None:
    result = run("ingest", "--dry-run", DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert result.stdout == f"{days_ago(0)}: sample data bills nothing\n"


def test_bigquery_without_credentials_fails_at_start(database_url: str) -> None:
    for command in ("serve", "ingest"):
        result = run(command, DATABASE_URL=database_url, INGEST_SOURCE="bigquery", HOME="/nowhere")
        assert_fails(result, 1, "GOOGLE_SERVICE_ACCOUNT_JSON")


async def test_from_the_sample_to_real_data(
    database_url: str, engine: AsyncEngine, emulator_client: bigquery.Client, emulator_host: str
) -> None:
    """In the README's order: the cost, a refusal, the sample replaced, the status."""
    table = Table(emulator_client)
    table.insert(Event(), Event(installer="devpi"), Event(at=NOON - timedelta(days=5)))
    environment = {
        "DATABASE_URL": database_url,
        "BIGQUERY_EMULATOR_HOST": emulator_host,
        "BIGQUERY_TABLE": table.id,
    }
    result = run("ingest", "--dry-run", **environment)
    assert re.search(r"0 bytes \(0\.0 GiB\) would be billed, 0\.00 USD", result.stdout)
    assert "BIGQUERY_MAX_BYTES_BILLED allows 536,870,912,000 bytes" in result.stdout

    run("ingest", "--source", "sample", DATABASE_URL=database_url)
    assert_fails(run("ingest", **environment), 1, "sample data", "--replace-sample")

    start = str(days_ago(1))
    result = run("backfill", "--start", start, "--replace-sample", **environment)
    assert result.returncode == 1, "a day without rows failed, and the other is there"
    assert result.stdout == f"1 published, 1 failed, 0 already there; failed: {start}\n"
    assert f"{start} failed: bigquery has no rows for {start}" in result.stderr

    shown = run("status", **environment).stdout
    assert re.search(r"^days +1 of 180$", shown, re.MULTILINE)
    assert re.search(rf"^latest +{days_ago(0)}$", shown, re.MULTILINE)
    assert re.search(r"^source +bigquery$", shown, re.MULTILINE)
    assert re.search(r"^packages +1$", shown, re.MULTILINE)
    emulator_client.delete_table(table.id)


async def test_backfill_does_what_is_missing(database_url: str, engine: AsyncEngine) -> None:
    arguments = ("backfill", "--start", str(days_ago(3)), "--end", str(days_ago(1)))
    run("ingest", "--date", str(days_ago(2)), DATABASE_URL=database_url)
    result = run(*arguments, DATABASE_URL=database_url, LOG_LEVEL="info")
    assert result.returncode == 0
    assert result.stdout == "2 published, 0 failed, 1 already there\n"
    lines = [line for line in result.stderr.splitlines() if "published" in line]
    assert [str(days_ago(1)) in lines[0], str(days_ago(3)) in lines[1]] == [True, True]
    assert "\x1b" not in result.stderr
    assert "\r" not in result.stderr

    result = run(*arguments, DATABASE_URL=database_url)
    assert result.stdout == "0 published, 0 failed, 3 already there\n"
    result = run(*arguments, "--force", DATABASE_URL=database_url)
    assert result.stdout == "3 published, 0 failed, 0 already there\n"


def test_backfill_shows_a_bar_in_a_terminal(database_url: str) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "app", "backfill", "--start", str(days_ago(3))]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # How Linux tells that the other end is closed.
                part = b""
            if not part:
                break
            shown += part
        assert process.wait(60) == 0
    os.close(ours)
    assert re.search(rb"100%\|.*\| 4/4 ", shown)
    assert b"4 published, 0 failed, 0 already there" in shown


async def test_expire(database_url: str, engine: AsyncEngine) -> None:
    old = days_ago(RETENTION_DAYS + 31)
    await publish(engine, old, downloads("gone", 1))
    await publish(engine, days_ago(0), downloads("flask", 1))
    result = run("expire", DATABASE_URL=database_url, LOG_LEVEL="info")
    assert result.returncode == 0
    assert f"dropped daily_downloads_{old:%Y_%m}, forgot 1 packages" in result.stderr


async def test_seed_is_refused_beside_real_data(database_url: str, engine: AsyncEngine) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    assert_fails(run("seed", DATABASE_URL=database_url), 1, "holds real data")


def test_openapi_needs_no_database() -> None:
    document = json.loads(run("openapi", DATABASE_URL="postgresql://nobody@127.0.0.1:1/x").stdout)
    assert document["openapi"].startswith("3.")


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_helps_and_is_in_the_readme(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    for option in cli.commands[command].params:
        assert isinstance(option, click.Option)
        assert option.help, f"{command} {option.opts} has no help"
    described = (cli.commands[command].help or "").partition("\n\n")[0].replace("\n", " ").strip()
    assert f"| `{command}` | {described} |" in (ROOT / "README.md").read_text()
