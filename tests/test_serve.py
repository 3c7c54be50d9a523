"""The service as people start it: `python -m app serve`, with a Postgres of its own."""

import re
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from app.ingest.sample import PACKAGES
from tests.days import days_ago
from tests.processes import assert_fails, run, served, servers

PAYLOADS = ("recent", "overall", "python_major", "python_minor", "system")


def _answers(address: str) -> list[bytes]:
    with httpx.Client(base_url=address) as client:
        return [
            client.get(f"/api/packages/{package}/{payload}").raise_for_status().content
            for package in ("requests", "__all__")
            for payload in PAYLOADS
        ]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_empty_folder_becomes_a_service_and_stays_one(
    tmp_path: Path, stop: signal.Signals
) -> None:
    data_dir, log = tmp_path / "data", tmp_path / "log"
    with served(data_dir, log, RETENTION_DAYS="180") as (address, process):
        status = httpx.get(f"{address}/api/status").json()
        assert status["sample"] is True
        assert (status["days"], status["gaps"]) == (180, [])
        assert status["latest_day"] == str(days_ago(0))
        assert status["packages"] == len(PACKAGES)
        before = _answers(address)
        assert all(re.search(rb'"downloads":[1-9]|"last_day":[1-9]', body) for body in before)
        started = [process, *process.children(recursive=True)]
        assert len(servers(data_dir)) == 1

        process.send_signal(stop)
        _, alive = psutil.wait_procs(started, timeout=30)
        assert alive == []
        assert servers(data_dir) == []
    assert "SAMPLE data" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_second_start_finds_the_data_as_it_was(tmp_path: Path) -> None:
    data_dir, log = tmp_path / "data", tmp_path / "log"
    # A day before the latest complete one, and no more than that: the first start does the rest.
    run("ingest", "--date", str(days_ago(1)), DATA_DIR=str(data_dir))
    with served(data_dir, log) as (address, _):
        status = httpx.get(f"{address}/api/status").json()
        assert (status["days"], status["latest_day"]) == (30, str(days_ago(1)))
        before = _answers(address)
    log.unlink()
    with served(data_dir, log) as (address, _):
        assert httpx.get(f"{address}/api/status").json() == status
        assert _answers(address) == before
    assert "Making" not in log.read_text()


def test_several_processes_share_the_work(tmp_path: Path) -> None:
    with served(tmp_path / "data", tmp_path / "log", WORKERS="2") as (address, process):
        assert len(_answers(address)) == 10
        workers = process.children(recursive=True)
        assert len(workers) >= 2
        process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs([process, *workers], timeout=30)
        assert alive == []
    assert servers(tmp_path / "data") == []


def test_commands_use_the_server_of_a_running_service(tmp_path: Path) -> None:
    data_dir = str(tmp_path / "data")
    with served(tmp_path / "data", tmp_path / "log") as (address, _):
        assert httpx.get(f"{address}/api/status").json()["days"] == 30
        result = run("expire", DATA_DIR=data_dir, LOG_LEVEL="info")
        assert result.returncode == 0
        assert "dropped no month" in result.stderr
        assert "days       30 of 180" in run("status", DATA_DIR=data_dir).stdout
        assert httpx.get(f"{address}/api/status").json()["days"] == 30


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    data_dir = str(tmp_path / "data")
    with served(tmp_path / "data", tmp_path / "log") as (address, _):
        port = address.rpartition(":")[2]
        result = run("serve", DATA_DIR=data_dir, PORT=port)
        assert_fails(result, 1, f"PORT={port}", "in use")
        assert httpx.get(f"{address}/health").status_code == 200
