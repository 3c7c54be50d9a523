"""The command line, as processes: what it does, prints, and answers to what is wrong."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.program import cli
from app.db.repositories.downloads_repository import DownloadsRepository
from app.domain.breakdowns import OPTIONAL_BREAKDOWNS
from app.domain.events import ARTIFACTS_SINCE
from app.errors import HeldDayError, SettingsError
from app.ingest.sources.bigquery import cost_usd
from app.ingest.sources.sample import SampleSource
from app.settings import load_settings
from tests.days import (
    POLICY,
    RETENTION_DAYS,
    GivenSource,
    days_ago,
    downloads,
    ingest,
    publish,
)
from tests.processes import ROOT, assert_fails, free_port, run, started
from tests.waiting import PATIENCE_SECONDS, wait_until


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ["Missing command"]),
        (("fetch",), ["fetch"]),
        (("ingest", "--date", "yesterday"), ["--date", "yesterday", "such as 2026-11-20"]),
        (("ingest", "--date", "20261120"), ["--date", "such as 2026-11-20"]),
        (("ingest", "--date", "2026-02-30"), ["--date", "2026-02-30"]),
        (("ingest", "--source", "csv"), ["--source", "'bigquery', 'file', 'sample'"]),
        (("ingest", "2026-11-20"), ["2026-11-20"]),
        (("backfill", "--start"), ["--start"]),
        (("backfill", "--start", "2026-06-02", "--end", "2026-06-01"), ["after --end"]),
        (("export", "--start", "2026-06-02", "--end", "2026-06-01"), ["after --end"]),
        (("export", "--date", "2026-06-02", "--end", "2026-06-01"), ["--date", "--end"]),
        (("export", "--format", "xml"), ["--format", "'parquet', 'csv', 'ndjson'"]),
        (("export", "--to", "README.md"), ["--to", "is a file"]),
        (("export", "--to", "ftp://host/x"), ["--to", "s3://bucket/prefix or gs://bucket/prefix"]),
        (("export", "--to", "s3:///x"), ["--to", "s3://bucket/prefix"]),
        (("export", "--to", "s3:/key:pass@bucket"), ["--to", "should be a folder, s3://bucket"]),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], parts: list[str]) -> None:
    assert_fails(run(*arguments), 2, *parts)


def test_a_wrong_setting_is_named() -> None:
    assert_fails(run("serve", PORT="http"), 1, "PORT: input should be a valid integer")


@pytest.mark.parametrize(
    "command",
    ["serve", "migrate", "ingest", "expire", "seed", "status", "history", "verify", "export"],
)
def test_a_database_that_can_not_be_reached(command: str) -> None:
    port = free_port()
    url = f"postgresql://somebody:secret@127.0.0.1:{port}/stats"
    result = run(command, DATABASE_URL=url, DATABASE_WAIT_SECONDS="0")
    assert_fails(result, 1, "127.0.0.1", "can't be reached")
    assert "secret" not in result.stderr


def test_a_start_waits_for_its_database() -> None:
    url = f"postgresql://somebody@127.0.0.1:{free_port()}/stats"
    result = run("serve", DATABASE_URL=url, DATABASE_WAIT_SECONDS="1.5")
    waiting, failed = result.stderr.strip().splitlines()
    assert "waiting up to 1.5 s" in waiting
    assert failed.startswith("error: the database at 127.0.0.1:")


def test_a_start_does_not_wait_for_a_database_that_refuses(server_url: str) -> None:
    url = make_url(server_url).set(database="nothing").render_as_string(hide_password=False)
    assert_fails(run("serve", DATABASE_URL=url), 1, 'database "nothing" does not exist')


async def test_a_database_with_later_migrations(database_url: str, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for command in ("serve", "status"):
        assert_fails(run(command, DATABASE_URL=database_url), 1, "9999", "this code knows only")


async def test_a_database_that_refuses(database_url: str, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE packages RENAME TO things"))
    result = run("status", DATABASE_URL=database_url)
    assert_fails(result, 1, "the database refused: ", '"packages" does not exist')


def test_a_future_day(database_url: str) -> None:
    tomorrow = str(days_ago(-2))
    for arguments in (
        ("ingest", "--date", tomorrow),
        ("ingest", "--date", tomorrow, "--dry-run"),
        ("backfill", "--start", tomorrow, "--end", tomorrow),
    ):
        result = run(*arguments, DATABASE_URL=database_url)
        assert_fails(result, 1, tomorrow, f"latest complete UTC day is {days_ago(0)}")


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


def test_dry_run_of_no_source_asks_for_one() -> None:
    assert_fails(run("ingest", "--dry-run", INGEST_SOURCE="none"), 1, "INGEST_SOURCE=none")


def test_dry_run_of_files_says_where_they_should_be() -> None:
    assert_fails(run("ingest", "--dry-run", INGEST_SOURCE="file"), 1, "INGEST_FILES: should be set")


def test_bigquery_without_credentials_fails_at_start(database_url: str) -> None:
    for command in ("serve", "ingest"):
        result = run(command, DATABASE_URL=database_url, INGEST_SOURCE="bigquery", HOME="/nowhere")
        assert_fails(result, 1, "GOOGLE_SERVICE_ACCOUNT_JSON")


@pytest.fixture
def billing_host() -> Iterator[str]:
    """A server that bills what BigQuery does: the columns that a query mentions, each once."""
    billed = {
        "timestamp": 8 * 10**9,
        "file.project": 12 * 10**9,
        "details.installer.name": 5 * 10**9,
        "details.python": 8 * 10**9,
        "details.system.name": 7 * 10**9,
        "file.filename": 50 * 10**9,
    }
    for one in OPTIONAL_BREAKDOWNS:
        first = next((column for column in one.source_columns if column not in billed), None)
        if first:
            billed[first] = one.billed_bytes * 10**9

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert asked["configuration"]["dryRun"] is True
            query = asked["configuration"]["query"]["query"]
            count = sum(count for column, count in billed.items() if column in query)
            job = {
                "kind": "bigquery#job",
                "jobReference": {"projectId": "emulator", "jobId": "1", "location": "US"},
                "configuration": asked["configuration"],
                "statistics": {
                    "totalBytesProcessed": str(count),
                    "query": {"totalBytesProcessed": str(count)},
                },
                "status": {"state": "DONE"},
            }
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(job).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _costs(result: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """Return the numbers of a dry run's lines by their names."""
    assert result.returncode == 0, result.stderr
    lines = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    return {name: numbers for name, *numbers in lines if numbers}


def _daily(gigabytes: float, days: int = 180) -> list[str]:
    count = int(gigabytes * 10**9)
    usd = (cost_usd(count * times) for times in (1, 30, days))
    return [f"{count:,}", *(f"{one:,.2f}" for one in usd)]


@pytest.mark.parametrize(
    ("chosen", "total", "ingested"),
    [
        ("", "40,000,000,000 bytes (37.3 GiB) would be billed, 0.23 USD", {"installer"}),
        ("none", "40,000,000,000 bytes (37.3 GiB) would be billed, 0.23 USD", set()),
        (
            "version,ci",
            "48,000,000,000 bytes (44.7 GiB) would be billed, 0.27 USD",
            {"ci", "version"},
        ),
    ],
)
def test_a_dry_run_prints_the_cost_with_and_without_each_breakdown(
    billing_host: str, chosen: str, total: str, ingested: set[str]
) -> None:
    result = run(
        "ingest", "--dry-run", BIGQUERY_EMULATOR_HOST=billing_host, INGEST_BREAKDOWNS=chosen
    )
    costs = _costs(result)
    assert result.stdout.startswith(f"{days_ago(0)}: {total}")
    per_day = 48 if chosen == "version,ci" else 40
    assert costs["these settings"] == _daily(per_day)
    assert costs["without optional breakdowns"] == ["40,000,000,000", "0.23", "6.82", "40.93"]
    for one in OPTIONAL_BREAKDOWNS:
        name = f"{one.name}, ingested" if one.name in ingested else one.name
        assert costs[name] == _daily(one.billed_bytes)
    assert costs["costs"][:1] == ["10,485,760"]
    assert costs["saves"] == _daily(per_day - 0.010485760)


def test_a_dry_run_of_followed_packages_prints_upper_bounds(billing_host: str) -> None:
    result = run(
        "ingest", "--dry-run", BIGQUERY_EMULATOR_HOST=billing_host, INGEST_PACKAGES="flask,numpy"
    )
    costs = _costs(result)
    assert result.stdout.startswith(f"{days_ago(0)}: at most 40,000,000,000 bytes (37.3 GiB)")
    assert costs["these settings"] == _daily(40)
    assert not {"costs", "saves"} & costs.keys()
    assert "upper bounds" in result.stdout
    assert "The first 180 days take 3 queries." in result.stdout


def test_a_start_refuses_to_mix_all_and_some_packages(sample_url: str) -> None:
    result = run("serve", DATABASE_URL=sample_url, INGEST_PACKAGES="flask")
    assert_fails(result, 1, "figures of all packages", "unset INGEST_PACKAGES, or use another")


@pytest.mark.parametrize(
    ("days", "counted_files", "billed", "named_days"),
    [
        (0, "all", 40, 0),
        (0, "artifacts", 90, 180),
        (-1, "artifacts", 90, 180),
        (1, "artifacts", 40, 179),
        (80, "artifacts", 40, 100),
    ],
)
def test_a_dry_run_adds_names_of_files_to_the_days_that_need_them(
    billing_host: str, days: int, counted_files: str, billed: int, named_days: int
) -> None:
    day = ARTIFACTS_SINCE + timedelta(days=days)
    result = run(
        *("ingest", "--dry-run", "--date", str(day)),
        BIGQUERY_EMULATOR_HOST=billing_host,
        INGEST_COUNTED_FILES=counted_files,
    )
    costs = _costs(result)
    assert result.stdout.startswith(f"{day}: {billed},000,000,000 bytes")
    backfill = cost_usd((180 * 40 + named_days * 50) * 10**9)
    assert costs["these settings"] == [*_daily(40)[:3], f"{backfill:,.2f}"]
    chosen = ", ingested" if counted_files == "artifacts" else ""
    assert costs[f"names of files{chosen}"][:3] == ["50,000,000,000", "0.28", "0.00"]


def test_a_dry_run_prints_the_cost_of_each_month(database_url: str, billing_host: str) -> None:
    result = run(
        *("backfill", "--dry-run", "--months", "2021-10..2021-12"),
        DATABASE_URL=database_url,
        BIGQUERY_EMULATOR_HOST=billing_host,
    )
    costs = _costs(result)
    usd = [f"{cost_usd(40 * 10**9 * months):,.2f}" for months in (1, 3)]
    for month in ("2021-12", "2021-11", "2021-10"):
        assert costs[month] == ["40,000,000,000", usd[0]]
    assert costs["total"] == ["120,000,000,000", usd[1]]
    assert "known event from 2021-11-26, in 2021-11 to 2021-12: " in result.stderr


def test_an_implausible_day_is_held_until_it_is_forced(database_url: str, tmp_path: Path) -> None:
    """Half of the downloads of the same weekday a week before."""
    before, day = str(days_ago(7)), str(days_ago(0))
    for name, count in ((before, 2_000_000), (day, 1_000_000)):
        row = {
            "package": "flask",
            "with_mirrors": count,
            "without_mirrors": count,
            "python_minor": {"3.12": count},
            "system": {"linux": count},
        }
        (tmp_path / f"{name}.ndjson").write_text(json.dumps(row))
    environment = {
        "DATABASE_URL": database_url,
        "INGEST_SOURCE": "file",
        "INGEST_FILES": f"{tmp_path}/{{day}}.ndjson",
    }
    assert run("ingest", "--date", before, **environment).returncode == 0
    result = run("ingest", "--date", day, **environment)
    assert_fails(result, 1, f"{day} is held, not published", f"--date {day} --force")
    shown = run("status", **environment).stdout
    assert re.search(rf"^latest day +{before}$", shown, re.MULTILINE)
    assert re.search(rf"^held +{day}$", shown, re.MULTILINE)
    assert re.search(rf"\n  {day} .* downloads instead of .*; tried 1 times, next at ", shown)
    assert re.search(
        rf"^last ingest +.*: {day} held: .* downloads instead of ", shown, re.MULTILINE
    )

    result = run("ingest", "--date", day, "--force", **environment)
    assert result.stdout.startswith(f"published {day} from file: 1 packages, ")
    shown = run("status", **environment).stdout
    assert re.search(r"^held +none$", shown, re.MULTILINE)
    assert re.search(rf"^{day} +1 +[\d,]{{9,}}  ", shown, re.MULTILINE)

    told = run("history", **environment).stdout.splitlines()
    assert [line.split()[3:5] for line in told[1:]] == [
        [day, "file"],
        [day, "file"],
        [before, "file"],
    ]
    assert re.search(r"  1 +- .*published", told[1])
    assert re.search(r"  1 +0 .*held: [\d,]+ downloads instead of ", told[2])
    assert re.search(r"  1 +0 .*published", told[3])
    assert len(run("history", "--limit", "1", **environment).stdout.splitlines()) == 2


def test_without_a_run_there_is_no_history(database_url: str) -> None:
    assert run("history", DATABASE_URL=database_url).stdout == "no day has been ingested yet\n"


def test_ingesting_without_a_source_requires_the_option(database_url: str) -> None:
    for command in ("ingest", "backfill"):
        result = run(command, DATABASE_URL=database_url, INGEST_SOURCE="none")
        assert_fails(result, 1, "INGEST_SOURCE=none", "--source")


async def test_backfill_publishes_missing_days(database_url: str, engine: AsyncEngine) -> None:
    arguments = ("backfill", "--start", str(days_ago(3)), "--end", str(days_ago(1)))
    run("ingest", "--date", str(days_ago(2)), DATABASE_URL=database_url)
    result = run(*arguments, DATABASE_URL=database_url)
    assert result.returncode == 0
    assert result.stdout == "2 of 2 missing days published, 0 failed\n"
    assert re.fullmatch(
        rf"published {days_ago(1)} from sample: .*\npublished {days_ago(3)} from sample: .*\n",
        result.stderr,
    )

    result = run(*arguments, DATABASE_URL=database_url)
    assert result.stdout == "0 of 0 missing days published, 0 failed\n"
    result = run(*arguments, "--force", DATABASE_URL=database_url)
    assert result.stdout == "3 of 3 days published, 0 failed\n"


async def test_backfill_first_publishes_held_days_that_became_plausible(
    database_url: str, engine: AsyncEngine
) -> None:
    """The source is not queried, because it has no other rows."""
    day, neighbour = days_ago(0), days_ago(7)
    await publish(engine, neighbour, downloads("flask", 100))
    with pytest.raises(HeldDayError):
        await ingest(engine, GivenSource({day: [downloads("flask", 30)]}), day, POLICY)
    await publish(engine, neighbour, downloads("flask", 30))
    arguments = ("backfill", "--start", str(day), "--end", str(day))
    result = run(*arguments, DATABASE_URL=database_url)
    assert result.returncode == 0
    assert result.stdout == "0 of 0 missing days published, 0 failed\n"
    assert result.stderr.startswith(f"published {day} from given: ")


async def test_backfill_counts_a_day_as_published_that_it_held_first(
    database_url: str, engine: AsyncEngine, tmp_path: Path
) -> None:
    """Its neighbours, which make it plausible, come later in the same run."""
    await publish(engine, days_ago(7), downloads("flask", 1))
    totals = {"with_mirrors": 9000, "without_mirrors": 9000}
    counts = {"python_minor": {"3.12": 9000}, "system": {"linux": 9000}}
    for ago in range(4):
        row = {"package": "flask", **totals, **counts}
        (tmp_path / f"{days_ago(ago)}.ndjson").write_text(json.dumps(row))
    result = run(
        *("backfill", "--source", "file", "--start", str(days_ago(3)), "--end", str(days_ago(0))),
        DATABASE_URL=database_url,
        INGEST_FILES=f"{tmp_path}/{{day}}.ndjson",
    )
    assert f"{days_ago(0)} is held" in result.stderr
    assert result.stdout == "4 of 4 missing days published, 0 failed\n"
    assert result.returncode == 0


def _stopped(
    stop: signal.Signals, after_lines: int, folder: Path, command: Sequence[str], url: str
) -> subprocess.CompletedProcess[str]:
    """Run a command until it has written so many lines on standard error, and stop it."""
    output, errors = folder / "stdout", folder / "stderr"
    with started(command, output, errors, DATABASE_URL=url, RETENTION_DAYS="30") as process:
        wait_until(lambda: errors.exists() and errors.read_text().count("\n") >= after_lines)
        process.send_signal(stop)
        status = process.wait(PATIENCE_SECONDS)
    assert "Traceback" not in errors.read_text()
    return subprocess.CompletedProcess(command, status, output.read_text(), errors.read_text())


async def test_backfill_continues_after_a_stop(
    database_url: str, engine: AsyncEngine, tmp_path: Path
) -> None:
    missing = 30
    for stop in (signal.SIGINT, signal.SIGTERM):
        folder = tmp_path / stop.name
        folder.mkdir()
        stopped = _stopped(stop, 3, folder, ["backfill"], database_url)
        assert stopped.returncode == 128 + stop
        assert stopped.stderr.startswith("published ")
        days = await DownloadsRepository(engine, 30).published_days()
        published = len(days) - (30 - missing)
        assert 3 <= published < missing
        # The day at which it was stopped may have been published without having been counted.
        match = re.fullmatch(
            rf"(\d+) of {missing} missing days published, 0 failed, \d+ not tried\n",
            stopped.stdout,
        )
        assert match
        assert int(match[1]) in (published, published - 1)
        missing -= published

    result = run("backfill", DATABASE_URL=database_url, RETENTION_DAYS="30")
    assert result.stdout == f"{missing} of {missing} missing days published, 0 failed\n"


def test_days_are_utc_days() -> None:
    """The machine's time zone does not matter, even if its date usually differs from UTC's."""
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        assert run("ingest", "--dry-run", TZ=zone).stdout.startswith(f"{days_ago(0)}: ")


def test_the_database_of_the_setting_is_used(database_url: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    assert run("status", DATABASE_URL=database_url, DATA_DIR=str(data_dir)).returncode == 0
    assert not data_dir.exists()


def test_the_environment_takes_precedence_over_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `.env` file on the machine must not affect the tests."""
    (tmp_path / ".env").write_text("RETENTION_DAYS=many\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETENTION_DAYS", "")
    assert load_settings().retention_days == RETENTION_DAYS
    monkeypatch.delenv("RETENTION_DAYS")
    with pytest.raises(SettingsError, match="RETENTION_DAYS: input should be a valid integer"):
        load_settings()


def test_backfill_shows_a_bar_in_a_terminal(database_url: str) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    terminal = Path(os.ttyname(theirs))
    command = ("backfill", "--start", str(days_ago(3)))
    with started(command, terminal, terminal, DATABASE_URL=database_url) as process:
        shown = os.read(ours, 4096)
        os.close(theirs)
        with suppress(OSError):  # How Linux tells that the other end is closed.
            while part := os.read(ours, 4096):
                shown += part
        assert process.wait(PATIENCE_SECONDS) == 0
    os.close(ours)
    assert re.search(rb"100%\|.*\| 4/4 ", shown)
    assert b"4 of 4 missing days published, 0 failed" in shown


async def test_expire(database_url: str, engine: AsyncEngine) -> None:
    old = days_ago(RETENTION_DAYS + 31)
    await publish(engine, old, downloads("gone", 1))
    await publish(engine, days_ago(0), downloads("flask", 1))
    result = run("expire", DATABASE_URL=database_url, LOG_LEVEL="info")
    assert result.returncode == 0
    dropped = f"daily_downloads_{old:%Y_%m}"
    assert f"rolled up {old:%Y-%m}: 1 packages, 1 downloads on 1 days" in result.stderr
    assert result.stdout == f"dropped {dropped}, deleted 0 packages\n"
    result = run("expire", DATABASE_URL=database_url, KEEP_MONTHS="0")
    deleted = "1 stored months and 1 packages"
    assert result.stdout == f"dropped no month, deleted {deleted}\n"


async def test_verify_notes_suspect_days(database_url: str, engine: AsyncEngine) -> None:
    """Suspect days are stored as published, so verification succeeds and only notes them."""
    for ago in (0, 7, 14):
        await publish(engine, days_ago(ago), downloads("flask", 100))
    day = days_ago(21)
    await publish(engine, day, downloads("flask", 1))
    reason = f"1 downloads instead of 100 on {day:%A}s: a ratio of 0.01, minimum 0.60"
    result = run("verify", DATABASE_URL=database_url)
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        "4 days verified: all as published",
        f"note: {day} is suspect: {reason}",
    ]
    result = run("status", DATABASE_URL=database_url)
    assert f"suspect      {day}\n  {day} {reason}; next check at " in result.stdout


async def test_verify(database_url: str, engine: AsyncEngine) -> None:
    first, latest = days_ago(40), days_ago(0)
    for day in (first, latest):
        await publish(engine, day, downloads("flask", 1))
    result = run("verify", DATABASE_URL=database_url)
    assert (result.returncode, result.stdout) == (0, "2 days verified: all as published\n")
    assert result.stderr == f"{first} verified\n{latest} verified\n"

    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE ingested_days SET downloads = 2 WHERE day = :day"), {"day": first}
        )
        await connection.execute(text("UPDATE packages SET last_week = 7 WHERE name = 'flask'"))
        await connection.execute(
            text("UPDATE top_packages SET downloads = 7 WHERE period = 'week'")
        )
    result = run("verify", DATABASE_URL=database_url)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        f"{first} downloads: recorded 2, found 1",
        f"{latest} last_week: recorded 7, found 1 for flask",
        "2 days verified: 2 differences in 2 days",
    ]

    result = run("verify", "--date", str(latest), DATABASE_URL=database_url)
    assert (result.returncode, result.stdout) == (0, "1 days verified: all as published\n")
    result = run("verify", "--date", str(days_ago(1)), DATABASE_URL=database_url)
    assert_fails(result, 1, f"{days_ago(1)} is not published")


async def test_seed_is_refused_beside_real_data(database_url: str, engine: AsyncEngine) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    assert_fails(run("seed", DATABASE_URL=database_url), 1, "holds real data")


async def test_export(database_url: str, engine: AsyncEngine, tmp_path: Path) -> None:
    to = ("--to", str(tmp_path / "dumps"))
    assert_fails(run("export", *to, DATABASE_URL=database_url), 1, "nothing is published")
    for ago in (2, 1, 0):
        await publish(engine, days_ago(ago), downloads("flask", 1 + ago))
    result = run("export", "--date", str(days_ago(1)), *to, DATABASE_URL=database_url)
    assert result.returncode == 0
    assert result.stdout == f"1 of 1 days written to {tmp_path}/dumps, 0 unchanged\n"
    wrote = rf"wrote downloads-{days_ago(1)}-[0-9a-f]{{12}}\.parquet: 1 packages, [\d,]+ bytes\n"
    assert re.fullmatch(wrote, result.stderr)
    result = run("export", DATABASE_URL=database_url, DUMPS_DIR=str(tmp_path / "dumps"))
    assert result.stdout == f"2 of 3 days written to {tmp_path}/dumps, 1 unchanged\n"
    result = run("export", "--end", str(days_ago(1)), *to, DATABASE_URL=database_url)
    assert result.stdout == f"0 of 2 days written to {tmp_path}/dumps, 2 unchanged\n"
    result = run(
        "export", "--start", str(days_ago(0)), *to, "--format", "csv", DATABASE_URL=database_url
    )
    assert_fails(result, 1, "holds parquet files", "export csv to another place")
    suffixes = sorted(name.rpartition(".")[2] for name in _names(tmp_path / "dumps"))
    assert suffixes == ["json", "parquet", "parquet", "parquet"]
    result = run("export", "--date", str(days_ago(3)), *to, DATABASE_URL=database_url)
    assert_fails(result, 1, f"{days_ago(3)} is not published")
    (tmp_path / "file").touch()
    below = str(tmp_path / "file" / "dumps")
    assert_fails(run("export", "--to", below, DATABASE_URL=database_url), 1, "Not a directory")


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _export_in_files_of_no_size(folder: str, database_url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"ulimit -f 0; exec {sys.executable} -m app export --to {folder}"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url, "LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_export_to_a_full_disk(database_url: str, engine: AsyncEngine) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    with tempfile.TemporaryDirectory() as folder:
        result = _export_in_files_of_no_size(folder, database_url)
        assert_fails(result, 1, folder, "File too large")
        assert _names(Path(folder)) == []


async def test_export_continues_after_a_stop(
    database_url: str, engine: AsyncEngine, tmp_path: Path
) -> None:
    for ago in range(20):
        await ingest(engine, SampleSource(), days_ago(ago))
    to = ("--to", str(tmp_path / "dumps"))
    for stop in (signal.SIGTERM, signal.SIGKILL):
        folder = tmp_path / stop.name
        folder.mkdir()
        stopped = _stopped(stop, 2, folder, ["export", *to], database_url)
        assert stopped.stderr.startswith("wrote sample-")
    result = run("export", *to, DATABASE_URL=database_url)
    match = re.fullmatch(
        r"(\d+) of 20 days written to .*, (\d+) unchanged(, 1 files removed)?\n", result.stdout
    )
    assert match, result
    assert int(match[2]) >= 4
    assert int(match[1]) + int(match[2]) == 20
    assert len(_names(tmp_path / "dumps")) == 21


def test_a_source_of_files_needs_a_location(database_url: str, tmp_path: Path) -> None:
    for command in ("serve", "ingest", "backfill"):
        result = run(command, DATABASE_URL=database_url, INGEST_SOURCE="file")
        assert_fails(result, 1, "INGEST_FILES: should be set")
        nowhere = str(tmp_path / "nowhere")
        result = run(command, DATABASE_URL=database_url, INGEST_FILES=nowhere)
        assert_fails(result, 1, f"INGEST_FILES: there is no folder {nowhere}")
    result = run("ingest", "--dry-run", INGEST_FILES=str(tmp_path))
    assert result.stdout == f"{days_ago(0)}: file data bills nothing\n"


@pytest.fixture
def file_host() -> Iterator[str]:
    """A server that has every file, of one package, where it sends on to with another secret."""
    content = (
        b'{"package":"flask","with_mirrors":1,"without_mirrors":1,'
        b'"python_minor":{"3.9":1},"system":{"linux":1}}\n'
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_there = self.path.startswith("/there/")
            self.send_response(200 if is_there else 302)
            self.send_header("Content-Length", str(len(content) if is_there else 0))
            if not is_there:
                self.send_header("Location", f"/there{self.path}&signature=secret-3")
            self.end_headers()
            if is_there:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("level", ["info", "debug"])
def test_secrets_in_the_location_of_files_are_not_logged(
    database_url: str, file_host: str, level: str
) -> None:
    location = f"http://user:secret-1@{file_host}/{{day}}.ndjson?token=secret-2"
    result = run("ingest", DATABASE_URL=database_url, INGEST_FILES=location, LOG_LEVEL=level)
    assert result.stdout.startswith(f"published {days_ago(0)} from file: 1 packages"), result.stderr
    assert "secret" not in result.stdout + result.stderr


def test_openapi_needs_no_database() -> None:
    document = json.loads(run("openapi", DATABASE_URL="postgresql://nobody@127.0.0.1:1/x").stdout)
    assert document["openapi"].startswith("3.")


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_and_option_has_a_help(command: str) -> None:
    assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0
    for option in cli.commands[command].params:
        assert isinstance(option, click.Option)
        assert option.help, f"{command} {option.opts} has no help"
