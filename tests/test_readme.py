"""The README and the documents are true: their commands are run, in order, on this checkout."""

import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from google.cloud import bigquery
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.program import PROGRAM, cli
from app.db.engine import create_engine
from app.db.repositories.downloads_repository import DownloadsRepository
from app.ingest.sources.sample import SampleSource
from app.main import create_app
from app.settings import Settings
from tests.bigquery_table import DAY, NOON, Event, Table
from tests.contents import everything
from tests.days import POLICY, days_ago, downloads, ingest, publish
from tests.processes import ROOT, free_port, get, run, served, servers, wait_for
from tests.waiting import PATIENCE_SECONDS

DOCUMENTS = ("README.md", "docs/api.md", "docs/http.md", "docs/ingest.md", "CONTRIBUTING.md")


def _blocks(*names: str) -> list[tuple[str, str]]:
    """Return the language and the text of each code block of the documents."""
    text = "\n".join((ROOT / name).read_text() for name in names)
    return re.findall(r"^ *```(\w+)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def _commands(*names: str) -> list[str]:
    """Return the shell commands of the documents, each of them in one line."""
    blocks = (block for kind, block in _blocks(*names) if kind == "sh")
    return [line.strip() for block in blocks for line in block.strip().splitlines()]


COMMANDS = _commands(*DOCUMENTS)


def _arguments(command: str) -> list[str]:
    """Return the arguments of a call of the program."""
    return shlex.split(command.partition(f"bin/{PROGRAM} ")[2])


def _shape(value: object) -> object:
    """The value without what changes with the day: numbers, dates, and how many items there are."""
    if isinstance(value, dict):
        return {
            key: item if key == "status" else len(item) if key == "request_id" else _shape(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        shapes = [_shape(item) for item in value]
        return [one for place, one in enumerate(shapes) if one not in shapes[:place]]
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d(-\d\d)?", value):
        return date
    return type(value) if isinstance(value, int | float) else value


def test_make_run_and_the_first_answers(data_dir: Path, tmp_path: Path) -> None:
    assert COMMANDS[0] == "make run"
    port = free_port()
    with (tmp_path / "log").open("w") as log:
        process = psutil.Popen(
            shlex.split(COMMANDS[0]),
            cwd=ROOT,
            env=os.environ | {"DATA_DIR": str(data_dir), "PORT": str(port), "RETENTION_DAYS": "75"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(port, process)
        shown = [(kind, block) for kind, block in _blocks(*DOCUMENTS) if kind in ("json", "csv")]
        called = [shlex.split(command)[1] for command in COMMANDS if command.startswith("curl ")]
        assert shown
        for url, (kind, answer) in zip(called, shown, strict=True):
            assert urlsplit(url).netloc == "127.0.0.1:8000"
            here = url.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            got = get(here)
            if kind == "json":
                assert _shape(got.json()) == _shape(json.loads(answer))
            else:
                header, *rows = answer.split()
                first, *others = got.text.split()
                assert first == header
                pattern = r"linux,\d{4}-\d\d-01,\d+"
                assert all(re.fullmatch(pattern, row) for row in (*rows, *others))
                assert others
    finally:
        # As Ctrl-C does: to everything that the terminal started.
        started = [process, *process.children(recursive=True)]
        os.killpg(process.pid, signal.SIGINT)
        _, alive = psutil.wait_procs(started, timeout=PATIENCE_SECONDS)
    assert alive == []
    assert servers(data_dir) == []


def test_make_test_runs_all_tests() -> None:
    assert "make test" in COMMANDS
    shown = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/dev", "test"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    # On all cores, and none left out.
    assert shown.stdout.split() == [
        *(".venv/bin/python", "-m", "pytest", "--numprocesses", "auto"),
        *("--maxprocesses", "5", "--dist", "loadfile", "--no-loadscope-reorder"),
    ]


def test_commands_have_the_options_that_the_readme_uses() -> None:
    commands = COMMANDS + _commands("docs/dumps.md")
    calls = [command for command in commands if f"bin/{PROGRAM} " in command]
    assert calls
    for call in calls:
        name, *arguments = _arguments(call)
        cli.commands[name].make_context(name, arguments, **cli.context_settings)


async def test_from_the_sample_to_real_data_in_the_words_of_the_readme(
    database_url: str, engine: AsyncEngine, emulator_client: bigquery.Client, emulator_host: str
) -> None:
    """The commands of the section on real data, for two days, with an emulator in Google's place:
    the cost, a refusal, the sample replaced, the status.
    """
    table = Table(emulator_client)
    table.insert(Event(), Event(installer="devpi"), Event(at=NOON - timedelta(days=5)))
    await ingest(engine, SampleSource(), DAY, POLICY)
    environment = {
        "DATABASE_URL": database_url,
        "BIGQUERY_EMULATOR_HOST": emulator_host,
        "BIGQUERY_TABLE": table.id,
    }
    dry_run, backfill = (
        _arguments(command)
        for command in COMMANDS
        if f"{PROGRAM} ingest" in command or command.endswith("--replace-sample")
    )
    cost = run(*dry_run, **environment).stdout
    assert re.search(r"0 bytes \(0\.0 GiB\) would be billed, 0\.00 USD", cost)
    assert "BIGQUERY_MAX_BYTES_BILLED allows 536,870,912,000 bytes" in cost
    refused = run("ingest", **environment)
    assert refused.returncode == 1
    assert "--replace-sample" in refused.stderr.splitlines()[-1], refused.stderr

    start = str(days_ago(1))
    result = run(*backfill, "--start", start, **environment)
    assert result.returncode == 1, "a day without rows failed, and the other is there"
    assert result.stdout == f"1 of 2 missing days published, 1 failed ({start})\n"
    assert f"{start} failed: bigquery has no rows for {start}" in result.stderr

    shown = run("status", **environment).stdout
    assert re.search(r"^days +1 of 180$", shown, re.MULTILINE)
    assert re.search(rf"^latest day +{DAY}$", shown, re.MULTILINE)
    assert re.search(r"^source +bigquery$", shown, re.MULTILINE)
    assert re.search(r"^packages +1, 1 of them on the latest day$", shown, re.MULTILINE)
    emulator_client.delete_table(table.id)


async def test_following_packages_in_the_words_of_the_readme(
    database_url: str, emulator_client: bigquery.Client, emulator_host: str
) -> None:
    table = Table(emulator_client)
    table.insert(Event(), Event(project="requests"), Event(project="other"))
    exports = dict(
        command.removeprefix("export ").split("=")
        for command in COMMANDS
        if command.startswith("export INGEST_")
    )
    environment = {
        "DATABASE_URL": database_url,
        "BIGQUERY_EMULATOR_HOST": emulator_host,
        "BIGQUERY_TABLE": table.id,
        **exports,
    }
    cost = run("ingest", "--dry-run", **environment).stdout
    assert "The first 180 days take 3 queries." in cost
    result = run("backfill", "--replace-sample", "--start", str(days_ago(1)), **environment)
    assert result.stdout == "2 of 2 missing days published, 0 failed\n", result.stderr
    shown = run("status", **environment).stdout
    assert re.search(r"^followed +flask, requests$", shown, re.MULTILINE)
    assert re.search(r"^packages +2, 2 of them on the latest day$", shown, re.MULTILINE)
    emulator_client.delete_table(table.id)


async def test_one_instance_seeds_another_in_the_words_of_the_readme(
    database_url: str, unmigrated_url: str, engine: AsyncEngine, tmp_path: Path
) -> None:
    """The commands of the section on dumps, for a week. The second instance contains and answers
    the same.
    """
    for ago in range(7):
        rows = [
            downloads(f"package-{number}", {"3.12": 50 + number, "null": 1 + ago}, mirrors=number)
            for number in range(20)
        ]
        await publish(engine, days_ago(ago), *rows)
    export, backfill = (
        command
        for command in COMMANDS
        if f"{PROGRAM} export" in command or command.endswith("--source file")
    )
    common = {
        "RETENTION_DAYS": "30",
        "DUMPS_DIR": str(tmp_path / "dumps"),
        "INGEST_SOURCE": "none",
    }
    exported = run(*_arguments(export), DATABASE_URL=database_url, **common)
    assert exported.stdout == f"7 of 7 days written to {tmp_path}/dumps, 0 unchanged\n"
    name, _, location = backfill.partition(" ")[0].partition("=")
    with served(tmp_path, tmp_path / "log", (), DATABASE_URL=database_url, **common) as (first, _):
        seeded = run(
            *(*_arguments(backfill), "--start", str(days_ago(6))),
            DATABASE_URL=unmigrated_url,
            **common,
            **{name: location.replace("https://stats.example", first)},
        )
        assert seeded.stdout == "7 of 7 missing days published, 0 failed\n", seeded.stderr
        verified = run("verify", DATABASE_URL=unmigrated_url, **common)
        assert verified.stdout == "7 days verified: all as published\n"
        other = create_engine(unmigrated_url)
        copied, original = await everything(other), await everything(engine)
        days = await DownloadsRepository(other, 30).published_days()
        await other.dispose()
        assert {day.source for day in days} == {"file"}
        assert [day.digest for day in days] == [
            day.digest for day in await DownloadsRepository(engine, 30).published_days()
        ]
        for table in ("rows", "packages", "held days", "held rows"):
            assert copied[table] == original[table]
        with served(tmp_path, tmp_path / "log", (), DATABASE_URL=unmigrated_url, **common) as (
            second,
            _,
        ):
            _assert_answers_are_equal(first, second)


def _assert_answers_are_equal(first: str, second: str) -> None:
    for endpoint in ("recent", "overall", "python_major", "python_minor", "system"):
        for package in ("package-7", "__all__"):
            path = f"/api/packages/{package}/{endpoint}"
            one, two = (get(f"{address}{path}") for address in (first, second))
            assert one.status_code == 200
            assert (one.content, one.headers["etag"]) == (two.content, two.headers["etag"])


def test_make_targets_of_the_readme_exist() -> None:
    text = "\n".join((ROOT / name).read_text() for name in DOCUMENTS)
    targets = set(re.findall(r"`make ([a-z-]+)`", text))
    assert {"run", "test", "check", "constraints"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_endpoints_of_the_readme_are_those_of_the_document() -> None:
    written = (ROOT / "docs" / "api.md").read_text()
    documented = set(create_app(Settings(), "postgresql:///unused").openapi()["paths"])
    assert set(re.findall(r"^\| `(/[^`]*)` \|", written, re.MULTILINE)) == documented


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))], ids=str
)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text()):
        linked = path.parent / target if target else path
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), f"{target}#{anchor}"


def test_paths_of_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("| folder | contains |")[2].partition("\n\n")[0]
    folders = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    packages = {f"app/{one.parent.name}" for one in (ROOT / "app").glob("*/__init__.py")}
    assert packages <= set(folders)
    assert all((ROOT / path).exists() for path in re.findall(r"`((?:app|tests)/[^`]*)`", text))
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_generated_references_match_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["docs/reference.py", "--check"])
    with suppress(SystemExit):
        runpy.run_path(str(ROOT / "docs" / "reference.py"), run_name="__main__")
    assert capsys.readouterr().err == ""
