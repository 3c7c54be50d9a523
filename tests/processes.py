"""Processes of the service, as people and operators start them, on loopback."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

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


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env=os.environ | {"LOG_LEVEL": "warning", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def assert_fails(result: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    """One line on standard error, and an exit status."""
    assert result.returncode == status, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


@contextmanager
def served(
    data_dir: Path, log: Path, before: tuple[str, ...] = (), **environment: str
) -> Iterator[tuple[str, psutil.Popen]]:
    """A service on a port of its own: its address and its process."""
    port = free_port()
    with log.open("a") as output:
        process = psutil.Popen(
            [*before, sys.executable, "-m", "app", "serve"],
            cwd=ROOT,
            env=os.environ
            | {"DATA_DIR": str(data_dir), "DUMPS_DIR": str(data_dir / "dumps")}
            | {"PORT": str(port), "RATE_LIMITS": ""}
            | {"RETENTION_DAYS": "30", **environment},
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
