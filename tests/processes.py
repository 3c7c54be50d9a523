"""Processes of the service, as people and operators start them, on loopback."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import httpx
import psutil

from app.domain.clock import utc_now
from tests.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes] | psutil.Popen) -> None:
    """Wait until the process listens on the port."""

    def listens() -> bool:
        assert process.poll() is None, f"ended with status {process.returncode}"
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens)


def get(url: str, **headers: str) -> httpx.Response:
    """Send a GET request with these headers to a service."""
    return httpx.get(url, headers=headers, timeout=PATIENCE_SECONDS)


COMMAND = [sys.executable, "-m", "tests.command"]
"""The command line with the clock of the tests."""

SERVE = [sys.executable, "-m", "app", "serve"]
"""The service. It runs by the clock of the machine, as APScheduler does."""


def latest_complete_day() -> date:
    """Return the latest complete day by the clock of the machine."""
    return utc_now().date() - timedelta(days=1)


def _distant_schedule() -> str:
    """Return a schedule that does not fire for months."""
    return f"0 0 1 {(utc_now().month + 5) % 12 + 1} *"


_forkserver = get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.command", "tests.processes", "pytest"])


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a fork of a process that has imported the program already.

    The imports take most of the time of a command.
    """
    environment = os.environ | {"LOG_LEVEL": "warning", **environment}
    with TemporaryDirectory() as folder:
        streams = Path(folder, "stdout"), Path(folder, "stderr")
        process = _forkserver.Process(target=_run, args=(arguments, environment, streams))
        process.start()
        process.join(PATIENCE_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"{arguments} did not end")
        output, errors = (stream.read_text() for stream in streams)
    return subprocess.CompletedProcess(arguments, process.exitcode, output, errors)


def _run(
    arguments: tuple[str, ...], environment: Mapping[str, str], streams: tuple[Path, Path]
) -> None:
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = ["pypi-stats", *arguments]
    import_module("tests.command").main()


def refuses(address: str) -> bool:
    """Return True if nothing listens at the address."""
    parts = urlsplit(address)
    with socket.socket() as connection:
        return connection.connect_ex((parts.hostname, parts.port)) != 0


def assert_fails(result: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    """One line on standard error, and an exit status."""
    assert result.returncode == status, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


@contextmanager
def served(
    data_dir: Path,
    log: Path,
    before: tuple[str, ...] = (),
    command: Sequence[str] = SERVE,
    folder: Path = ROOT,
    /,
    **environment: str,
) -> Iterator[tuple[str, psutil.Popen]]:
    """Run a service in the folder, on a port of its own; yield its address and its process.

    Nothing is due while it runs, unless the test sets another schedule.
    """
    port = free_port()
    with log.open("a") as output:
        process = psutil.Popen(
            [*before, *command],
            cwd=folder,
            env=os.environ
            | {"DATA_DIR": str(data_dir), "DUMPS_DIR": str(data_dir / "dumps")}
            | {"PORT": str(port), "RATE_LIMITS": "", "RETENTION_DAYS": "30"}
            | {"INGEST_SCHEDULE": _distant_schedule(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.is_running():
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def servers(data_dir: Path) -> list[int]:
    """The servers that run on this data."""
    cluster = str(data_dir / "postgres")
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if cluster in (process.info["cmdline"] or []) and "-D" in process.info["cmdline"]
    ]
