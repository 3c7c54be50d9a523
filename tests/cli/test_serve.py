"""The service as people start it: `pypi-stats serve`, with a Postgres of its own."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect
from app.domain.clock import utc_now
from app.errors import SettingsError
from app.ingest.pipeline import read_and_publish
from app.ingest.publish import PublishContext
from app.ingest.sources.sample import PACKAGES
from app.serving.response_cache import ENTRY_BYTES
from app.serving.server import metrics_folder
from tests.days import FORCED, GivenSource, days_ago, downloads, publish
from tests.processes import (
    ROOT,
    SERVE,
    TLS,
    assert_fails,
    free_port,
    get,
    latest_complete_day,
    refuses,
    run,
    served,
    servers,
    shared_folder,
    started,
)
from tests.waiting import PATIENCE_SECONDS, until, until_blocked, wait_until

PAYLOADS = ("recent", "overall", "python_major", "python_minor", "system")


def _status(address: str) -> dict[str, Any]:
    status: dict[str, Any] = get(f"{address}/api/status").json()
    return status


def _answers(address: str) -> list[bytes]:
    with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS, verify=TLS) as client:
        return [
            client.get(f"/api/packages/{package}/{payload}").raise_for_status().content
            for package in ("requests", "__all__")
            for payload in PAYLOADS
        ]


@dataclass(frozen=True)
class FirstStart:
    """Responses of a service that was started in an empty folder."""

    folder: Path
    log: str
    earliest_day: date
    status: dict[str, Any]
    answers: list[bytes]


@pytest.fixture(scope="module")
def first_start() -> Iterator[FirstStart]:
    with shared_folder() as folder:
        data_dir, log = folder / "data", folder / "log"
        earliest_day = latest_complete_day()
        with served(data_dir, log, INGEST_RECHECK_AFTER_HOURS="0") as (address, _):
            assert len(servers(data_dir)) == 1
            status, answers = _status(address), _answers(address)
        assert servers(data_dir) == []
        yield FirstStart(data_dir, log.read_text(), earliest_day, status, answers)


def test_serving_from_an_empty_folder(first_start: FirstStart) -> None:
    status = first_start.status
    assert status["sample"] is True
    assert (status["days"], status["gaps"]) == (30, [])
    assert str(first_start.earliest_day) <= status["latest_day"] <= str(latest_complete_day())
    assert status["packages"] == len(PACKAGES)
    for answer in first_start.answers:
        assert re.search(rb'"downloads":[1-9]|"last_day":[1-9]', answer)
    assert "SAMPLE data" in first_start.log
    assert "Traceback" not in first_start.log


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_start_keeps_the_data(
    first_start: FirstStart, tmp_path: Path, stop: signal.Signals
) -> None:
    folder, log = first_start.folder, tmp_path / "log"
    with served(folder, log, (), stop, INGEST_RECHECK_AFTER_HOURS="0") as (address, _):
        assert {**_status(address), "next_run": None} == {**first_start.status, "next_run": None}
        assert _answers(address) == first_start.answers
    assert servers(folder) == []
    assert "making" not in log.read_text()
    assert "Traceback" not in log.read_text()


def test_commands_use_the_server_of_a_running_service(
    first_start: FirstStart, tmp_path: Path
) -> None:
    with served(first_start.folder, tmp_path / "log") as (address, _):
        data_dir = str(first_start.folder)
        result = run("expire", DATA_DIR=data_dir, LOG_LEVEL="info")
        assert result.returncode == 0
        assert "dropped no month" in result.stdout
        assert "days         30 of 180" in run("status", DATA_DIR=data_dir).stdout
        assert _status(address)["days"] == 30


async def test_a_start_catches_up(database_url: str, engine: AsyncEngine, tmp_path: Path) -> None:
    """One of two processes reads the day that was missed while no process was running."""
    missed = latest_complete_day()
    row = downloads("flask", 1)
    before = missed - timedelta(days=1)
    await read_and_publish(
        PublishContext(engine, FORCED, utc_now), GivenSource({before: [row]}), before
    )
    for ago in range(30):
        file = tmp_path / f"{missed - timedelta(days=ago)}.ndjson"
        file.write_text(json.dumps({**row._asdict(), **row.breakdowns}))
    log = tmp_path / "log"
    environment = {
        "DATABASE_URL": database_url,
        "INGEST_FILES": f"{tmp_path}/{{day}}.ndjson",
        "INGEST_MAX_DAYS_PER_RUN": "1",
        "INGEST_SCHEDULE": "0 0 * * *",
    }
    with (
        served(tmp_path, log, **environment) as (first, _),
        served(tmp_path, log, **environment) as (second, _),
    ):
        for address in (first, second):
            wait_until(partial(_knows, address, missed))
            # The run is recorded as published, and the next one is scheduled, a moment later.
            wait_until(partial(_waits_after_publishing, address))
    assert log.read_text().count(f"published {missed} from file") == 1


def _knows(address: str, day: date) -> bool:
    return bool(_status(address)["latest_day"] >= str(day))


def _waits_after_publishing(address: str) -> bool:
    status = _status(address)
    return status["last_run"]["outcome"] == "published" and bool(status["next_run"])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nohup_is_respected(sample_url: str, tmp_path: Path, workers: str) -> None:
    environment = {"DATABASE_URL": sample_url, "WORKERS": workers}
    with served(tmp_path, tmp_path / "log", ("nohup", *SERVE), **environment) as (address, process):
        process.send_signal(signal.SIGHUP)
        # A service that stops refuses new connections.
        for _ in range(50):
            assert get(f"{address}/health").status_code == 200
        assert process.is_running()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_stop_lets_running_requests_finish(
    database_url: str, engine: AsyncEngine, tmp_path: Path, workers: str
) -> None:
    await publish(engine, days_ago(0), downloads("requests", 5))
    log = tmp_path / "log"
    with served(tmp_path, log, DATABASE_URL=database_url, WORKERS=workers) as (address, process):
        async with connect(engine) as connection:
            await connection.execute(text("LOCK TABLE packages"))
            asking = asyncio.create_task(_get(f"{address}/api/packages/requests/recent"))
            await until_blocked(engine)
            process.send_signal(signal.SIGTERM)
            await until(lambda: refuses(address))
            assert process.is_running()
            await connection.rollback()
            assert (await asking).json()["data"]["last_day"] == 5
        await asyncio.to_thread(process.wait, PATIENCE_SECONDS)


async def test_workers_share_a_socket_for_both_kinds_of_addresses_and_learn_of_publishes(
    database_url: str, engine: AsyncEngine, tmp_path: Path
) -> None:
    await publish(engine, days_ago(1), downloads("requests", 5))
    log = tmp_path / "log"
    with served(
        tmp_path,
        log,
        (),
        signal.SIGHUP,
        DATABASE_URL=database_url,
        HOST="::",
        WORKERS="2",
        LOG_FORMAT="json",
        TRUSTED_PROXIES="127.0.0.1",
    ) as (address, _):

        async def answers() -> list[int]:
            """Open connections at the same time, so that both workers accept some."""
            url = f"{address}/api/packages/requests/recent"
            responses = await asyncio.gather(*(_get(url) for _ in range(20)))
            return [response.json()["data"]["last_day"] for response in responses]

        async def both_have_answered() -> bool:
            assert set(await answers()) == {5}
            metrics = (await _get(f"{address}/metrics")).text
            (kept,) = re.findall(r"^pypi_stats_response_cache_bytes (.*)", metrics, re.MULTILINE)
            return float(kept) > 2 * ENTRY_BYTES

        await until(both_have_answered)
        await publish(engine, days_ago(0), downloads("requests", 6))

        async def both_know() -> bool:
            return set(await answers()) == {6}

        await until(both_know)
        port = address.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            get(f"http://{host}:{port}/api/nothing", **{"X-Forwarded-For": "203.0.113.9"})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    clients = [line["client"] for line in lines if line.get("path") == "/api/nothing"]
    # The proxy is known by its address, whatever the socket makes of it.
    # Each worker writes its lines together.
    assert sorted(clients) == ["203.0.113.9", "::1"]


def test_forwarded_addresses_are_trusted_only_from_a_proxy(sample_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {"DATABASE_URL": sample_url, "HOST": "::", "LOG_FORMAT": "json"}
    with served(
        tmp_path,
        log,
        (),
        signal.SIGINT,
        **environment,
        RATE_LIMITS="3/hour",
        TRUSTED_PROXIES="127.0.0.1",
    ) as (address, _):
        port = address.rpartition(":")[2]
        statuses = {
            host: [
                get(
                    f"http://{host}:{port}/api/status", **{"X-Forwarded-For": f"10.0.0.{number}"}
                ).status_code
                for number in range(4)
            ]
            for host in ("127.0.0.1", "[::1]")
        }
    assert statuses == {"127.0.0.1": [200] * 4, "[::1]": [200, 200, 200, 429]}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    clients = [line["client"] for line in lines if line.get("path") == "/api/status"]
    assert clients == [*(f"10.0.0.{number}" for number in range(4)), *["::1"] * 4]
    assert any("SAMPLE data" in line["event"] and line["level"] == "warning" for line in lines)


async def _get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, verify=TLS) as client:
        return await client.get(url)


@pytest.mark.parametrize("name", ["a%2Fb", "a%00b", "a" * 8_000, "%FF", "..%2F..%2Fetc%2Fpasswd"])
def test_odd_names_over_the_wire(address: str, name: str) -> None:
    response = get(f"{address}/api/packages/{name}/recent")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_head_over_the_wire(address: str) -> None:
    """Twice on one connection: a body that should not be there would be taken for an answer."""
    with httpx.Client(timeout=PATIENCE_SECONDS) as client:
        for _ in range(2):
            response = client.head(f"{address}/api/packages/requests/python_minor")
            assert (response.status_code, response.content) == (200, b"")
            assert int(response.headers["content-length"]) > 1000


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_service_stops_while_a_source_is_silent(
    first_start: FirstStart, tmp_path: Path, stop: signal.Signals
) -> None:
    log = tmp_path / "log"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(PATIENCE_SECONDS)
        host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment = {"DATA_DIR": str(first_start.folder), "BIGQUERY_EMULATOR_HOST": host}
        command = ("ingest", "--replace-sample")
        with started(command, log, log, **environment) as process:
            caller, _ = listener.accept()
            process.send_signal(stop)
            assert process.wait(PATIENCE_SECONDS) == 128 + stop
            caller.close()
    assert servers(first_start.folder) == []
    assert "Traceback" not in log.read_text()


def test_ctrl_c_while_the_program_is_loaded() -> None:
    """The signal arrives while the process still imports modules."""

    def has_imported(library: str, process: int) -> bool:
        return library in Path(f"/proc/{process}/maps").read_text()

    for library in ("_pydantic_core", "asyncpg"):
        with subprocess.Popen(
            [sys.executable, "-m", "app", "openapi"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            wait_until(partial(has_imported, library, process.pid))
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=PATIENCE_SECONDS)
        assert "Traceback" not in told


def test_a_port_in_use_is_an_error(address: str, sample_url: str) -> None:
    port = address.rpartition(":")[2]
    result = run("serve", DATABASE_URL=sample_url, PORT=port)
    assert_fails(result, 1, f"PORT={port}", "in use")
    assert get(f"{address}/health").status_code == 200


def test_a_folder_that_workers_need_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/read-only")
    with pytest.raises(SettingsError, match=r"^WORKERS: .* writable /tmp, or TMPDIR") as raised:
        metrics_folder()
    assert "\n" not in str(raised.value)


WITHOUT_PYTHON = """
import multiprocessing
import runpy
import sys

if __name__ == "__main__":
    multiprocessing.set_executable("/dev/null")
    sys.argv = ["pypi-stats", "serve"]
    runpy.run_module("app", run_name="__main__")
"""


def test_workers_that_can_not_start_are_not_restarted(sample_url: str, tmp_path: Path) -> None:
    """The interpreter can't be executed."""
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_PYTHON)
    environment = {"DATABASE_URL": sample_url, "WORKERS": "2", "INGEST_SOURCE": "none"}
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=ROOT,
        env=os.environ | environment | {"PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.endswith("error: a worker could not start, and ended with status 255\n")
