"""Processes of the service, as people and operators start them, on loopback."""

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from signal import SIGTERM, Signals
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import httpx
import psutil

from app.domain.clock import utc_now
from tests.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[1]

TLS = ssl.create_default_context()
"""Shared by clients. A client would load all certificate authorities for plain HTTP too, which
takes 60 ms.
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A temporary folder that every user can enter. If root runs the tests, the embedded Postgres
    runs as another user.
    """
    with TemporaryDirectory(prefix="pypi-stats-") as folder:
        path = Path(folder)
        path.chmod(0o711)
        yield path


def get(url: str, **headers: str) -> httpx.Response:
    """Send a GET request with these headers to a service."""
    return httpx.get(url, headers=headers, timeout=PATIENCE_SECONDS, verify=TLS)


SERVE = [sys.executable, "-m", "app", "serve"]
"""The service. It runs by the clock of the machine, as APScheduler does."""


def latest_complete_day() -> date:
    """Return the latest complete day by the clock of the machine."""
    return utc_now().date() - timedelta(days=1)


def _distant_schedule() -> str:
    """Return a schedule that does not fire for months."""
    return f"0 0 1 {(utc_now().month + 5) % 12 + 1} *"


_forkserver = get_context("forkserver")
# `tests.command` is first, because it sets the clock that the others import.
_forkserver.set_forkserver_preload(
    [
        *("tests.command", "app.__main__", "app.main", "app.serving.server", "app.cli.costs"),
        *("alembic.command", "psutil", "pyarrow.parquet", "uvicorn.loops.auto"),
        *("tests.processes", "pytest"),
    ]
)


class Program(psutil.Process):
    """The program in a fork of a process that has imported it already. Imports take most of the
    time of a start.
    """

    returncode: int | None = None

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        super().__init__(process.pid)

    def poll(self) -> int | None:
        self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, which is negative after a signal."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise psutil.TimeoutExpired(timeout or 0.0, self.pid)
        return status


@contextmanager
def started(
    arguments: Sequence[str],
    output: Path,
    errors: Path,
    follows_machine: bool = False,
    /,
    **environment: str,
) -> Iterator[Program]:
    """Start a command, which ends with the context at the latest."""
    environment = os.environ | environment
    process = _forkserver.Process(
        target=_run, args=(arguments, environment, (output, errors), follows_machine)
    )
    process.start()
    program = Program(process)
    try:
        yield program
    finally:
        if program.poll() is None:
            process.terminate()
            program.wait(PATIENCE_SECONDS)


def _run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    streams: tuple[Path, Path],
    follows_machine: bool,
) -> None:
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.argv = ["pypi-stats", *arguments]
    # Workers of the service import the main module.
    sys.modules["__main__"] = import_module("app.__main__")
    command = import_module("tests.command")
    command.clock.utc_now.follows_machine = follows_machine
    command.main()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with TemporaryDirectory() as folder:
        output, errors = Path(folder, "stdout"), Path(folder, "stderr")
        environment = {"LOG_LEVEL": "warning", **environment}
        with started(arguments, output, errors, **environment) as program:
            status = program.wait(PATIENCE_SECONDS)
        return subprocess.CompletedProcess(
            arguments, status, output.read_text(), errors.read_text()
        )


def wait_for(port: int, process: subprocess.Popen[bytes] | psutil.Popen | Program) -> None:
    """Wait until the process listens on the port."""

    def listens() -> bool:
        assert process.poll() is None, f"ended with status {process.returncode}"
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens)


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
    command: Sequence[str] = (),
    stop: Signals = SIGTERM,
    folder: Path = ROOT,
    /,
    **environment: str,
) -> Iterator[tuple[str, Program | psutil.Popen]]:
    """Run a service on a port of its own; yield its address and its process.

    The signal stops the service, with all its processes and status 0, unless the test did that. A
    command, such as `SERVE`, runs it in a new interpreter. Nothing is due while the service runs,
    unless the test sets another schedule.
    """
    port = free_port()
    environment = {
        "DATA_DIR": str(data_dir),
        "DUMPS_DIR": str(data_dir / "dumps"),
        "PORT": str(port),
        "RATE_LIMITS": "",
        "RETENTION_DAYS": "30",
        "INGEST_SCHEDULE": _distant_schedule(),
        **environment,
    }
    process: Program | psutil.Popen
    with ExitStack() as stack:
        if command:
            output = stack.enter_context(log.open("a"))
            process = psutil.Popen(
                command,
                cwd=folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            stack.callback(_terminate, process)
        else:
            process = stack.enter_context(started(["serve"], log, log, True, **environment))
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}", process
        if command:
            return
        if process.poll() is None:
            everything = [process, *process.children(recursive=True)]
            process.send_signal(stop)
            _, alive = psutil.wait_procs(everything, timeout=PATIENCE_SECONDS)
            assert alive == []
        assert process.returncode == 0


def _terminate(process: psutil.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def servers(data_dir: Path) -> list[int]:
    """The servers that run on this data."""
    cluster = str(data_dir / "postgres")
    parents = {
        process.pid: process.info["ppid"]
        for process in psutil.process_iter(["cmdline", "ppid"])
        if cluster in (process.info["cmdline"] or []) and "-D" in process.info["cmdline"]
    }
    # A child has the command line of its server until it sets its own.
    return [pid for pid, parent in parents.items() if parent not in parents]
