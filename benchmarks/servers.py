"""The servers under load: the service with its defaults, and a bare function as a baseline."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from app.settings import Settings
from benchmarks.command_line import ROOT, BenchmarkError, bench_dir

START_SECONDS = 60
STOP_SECONDS = 30

UNREACHED_LIMITS = "100000000/second;6000000000/minute"
"""Rate limits that are counted like any others and never reached."""

KNOWN_PACKAGE = "/api/packages/synthetic-1/recent"

CONTENT_HEADERS = ("content-type", "content-encoding")
"""Headers that the bare function copies from the service's response, besides the length."""


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    process: psutil.Process

    def processes(self) -> list[psutil.Process]:
        """Return the process and those of its workers."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self.processes()]
        return sum(spent.user + spent.system for spent in times)

    def rss_bytes(self) -> int:
        return sum(process.memory_info().rss for process in self.processes())


@contextmanager
def running(name: str, command: Sequence[str], **environment: str) -> Iterator[psutil.Popen]:
    """Run a process whose output goes to a log of that name. It ends with the context."""
    with _log(name).open("w") as output:
        process = psutil.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.is_running():
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def service(database_url: str, *, workers: int = 1, **settings: str) -> Iterator[Server]:
    """Run the service on a database, with its defaults except for unreachable rate limits."""
    port = free_port()
    # An empty variable counts as omitted, and takes precedence over a `.env` file.
    shipped = {name.upper(): "" for name in Settings.model_fields} | {
        "DATABASE_URL": database_url,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WORKERS": str(workers),
        "RATE_LIMITS": UNREACHED_LIMITS,
        "INGEST_SOURCE": "none",
    }
    command = [sys.executable, "-m", "app", "serve"]
    with running("service", command, **(shipped | settings)) as process:
        yield _ready("service", port, process)


@contextmanager
def bare_function(answer: httpx.Response | bytes, *, workers: int = 1) -> Iterator[Server]:
    """Run an ASGI function that only sends the same bytes, in the same server as the service."""
    port = free_port()
    body = bench_dir() / "bare.body"
    if isinstance(answer, bytes):
        status, headers = 200, {"content-type": "application/json"}
        body.write_bytes(answer)
    else:
        status, headers = answer.status_code, dict(answer.headers)
        body.write_bytes(answer.content)
    environment = {"BARE_STATUS": str(status), "BARE_BODY": str(body)} | {
        f"BARE_{name.upper().replace('-', '_')}": headers.get(name, "") for name in CONTENT_HEADERS
    }
    command = [
        *(sys.executable, "-m", "uvicorn", "benchmarks.bare:app"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)),
        *("--loop", "uvloop", "--http", "httptools", "--lifespan", "off"),
        *("--no-access-log", "--no-server-header", "--no-proxy-headers", "--log-level", "warning"),
    ]
    with running("bare", command, **environment) as process:
        yield _ready("bare", port, process)


def fetch(server: Server, path: str, headers: dict[str, str]) -> httpx.Response:
    """Return the response with its body as it was sent, compressed or not."""
    asked = {"accept-encoding": "identity"} | headers
    with httpx.stream("GET", server.url + path, headers=asked) as answer:
        sent = b"".join(answer.iter_raw())
        whole = httpx.Response(answer.status_code, content=sent)
        # Set the headers afterwards: with them, httpx would decompress the body.
        whole.headers = answer.headers
        return whole


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(name: str, port: int, process: psutil.Popen) -> None:
    """Wait until the process listens on the port."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        _check_runs(name, process)
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchmarkError(_not_ready(name))


def _ready(name: str, port: int, process: psutil.Popen) -> Server:
    wait_for(name, port, process)
    server = Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    deadline = time.monotonic() + START_SECONDS
    # The service is ready once it knows the current publication.
    while name == "service" and "etag" not in fetch(server, KNOWN_PACKAGE, {}).headers:
        if time.monotonic() > deadline:
            raise BenchmarkError(_not_ready(name))
        time.sleep(0.05)
    return server


def _check_runs(name: str, process: psutil.Popen) -> None:
    if process.poll() is not None:
        lines = _log(name).read_text().strip().splitlines() or ["its log is empty"]
        raise BenchmarkError(f"the {name} ended with status {process.returncode}: {lines[-1]}")


def _not_ready(name: str) -> str:
    return f"the {name} was not ready within {START_SECONDS} s: see {_log(name)}"


def _log(name: str) -> Path:
    return bench_dir() / f"{name}.log"
