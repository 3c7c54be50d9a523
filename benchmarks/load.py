"""Loads a server with wrk, and measures the server's processes meanwhile."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.command_line import BenchmarkError
from benchmarks.servers import Server

CONNECTIONS = 32

SCRIPT = Path(__file__).with_name("wrk.lua")

LONGEST_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Measured:
    requests: int
    seconds: float
    bytes: int
    p50_ms: float
    p99_ms: float
    cpu_percent: float
    """CPU time in percent of one core."""

    rss_bytes: int
    not_ok: int
    """Number of responses with a status of 400 or more."""

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def bytes_per_request(self) -> float:
        return self.bytes / self.requests

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds


@dataclass(frozen=True, slots=True)
class Load:
    """The requests of a load, and its number of connections."""

    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    paths: Path | None = None
    """File of paths that are requested in turn, instead of one path."""

    connections: int = CONNECTIONS
    pause_ms: int = 0
    """Pause of each connection between a response and the next request."""


def check_installed() -> None:
    if shutil.which("wrk") is None:
        raise BenchmarkError(
            "wrk, which generates the load, is not installed: on Debian, apt-get install wrk"
        )


def measure(server: Server, load: Load, seconds: int, *, skip: int = 0) -> Measured:
    with loading(server, load, seconds, skip=skip) as running:
        return running.finish()


@contextmanager
def loading(
    server: Server, load: Load, seconds: int = LONGEST_SECONDS, *, skip: int = 0
) -> Iterator["RunningLoad"]:
    """Run a load in the background until it is stopped or its time is over."""
    process = subprocess.Popen(
        _command(server, load, seconds, skip), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield RunningLoad(server, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


class RunningLoad:
    def __init__(self, server: Server, process: subprocess.Popen[bytes]) -> None:
        self._server = server
        self._process = process
        self._cpu_seconds = server.cpu_seconds()

    def stop(self) -> Measured:
        """Stop the load, and return the measurements so far."""
        self._process.send_signal(signal.SIGINT)
        return self.finish()

    def finish(self) -> Measured:
        """Wait until the load's time is over, and return the measurements."""
        output, _ = self._process.communicate()
        cpu_seconds = self._server.cpu_seconds() - self._cpu_seconds
        _, found, told = output.decode().partition("MEASURED ")
        if not found:
            raise BenchmarkError(f"wrk failed: {output.decode().strip()}")
        counts: dict[str, int] = json.loads(told)
        if counts["broken"] or not counts["requests"]:
            raise BenchmarkError(
                f"{counts['broken']} of {counts['requests']} requests were not answered"
            )
        seconds = counts["microseconds"] / 1e6
        return Measured(
            requests=counts["requests"],
            seconds=seconds,
            bytes=counts["bytes"],
            p50_ms=counts["p50_us"] / 1000,
            p99_ms=counts["p99_us"] / 1000,
            cpu_percent=100 * cpu_seconds / seconds,
            rss_bytes=self._server.rss_bytes(),
            not_ok=counts["not_ok"],
        )


def _command(server: Server, load: Load, seconds: int, skip: int) -> Sequence[str]:
    headers = [f"--header={name}: {value}" for name, value in load.headers.items()]
    return [
        *("wrk", "--threads=1", f"--connections={load.connections}"),
        *(f"--duration={seconds}s", "--timeout=10s", f"--script={SCRIPT}"),
        *headers,
        server.url + load.path,
        *("--", str(load.paths or "-"), str(skip), str(load.pause_ms)),
    ]
