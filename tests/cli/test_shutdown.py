"""A stop fits into the 10 s of `docker stop`, whatever runs or hangs."""

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.dumps.listing import NAMED_DIGEST_CHARACTERS, Dump, DumpFormat, Dumps
from app.dumps.stores.folder import DumpFolder
from app.serving.server import CONNECTIONS_CLOSE_SECONDS
from app.settings import Settings
from tests.days import days_ago, downloads, publish
from tests.faults.postgres import connect_to, through
from tests.faults.proxy import Proxy
from tests.processes import Program, free_port, refuses, served, servers, started
from tests.waiting import PATIENCE_SECONDS, wait_until

STOP_SECONDS = 10
"""Time that `docker stop` allows."""

GRACEFUL_STOP_SECONDS = 2
"""A quarter of the default, so that a busy machine has time to run the processes that stop."""

DUMP_BYTES = 64 * 2**20
"""More than the system's buffers of a connection hold."""


@pytest.fixture(params=["1", "2"])
def workers(request: pytest.FixtureRequest) -> str:
    count: str = request.param
    return count


def _write_large_dump(folder: Path) -> str:
    """List a large file as a dump of a day; return its name."""
    digest = "0" * 64
    name = f"downloads-{days_ago(0)}-{digest[:NAMED_DIGEST_CHARACTERS]}.parquet"
    dump = Dump(
        day=days_ago(0),
        name=name,
        url=name,
        format=DumpFormat.PARQUET,
        bytes=DUMP_BYTES,
        sha256="0" * 64,
        source="given",
        packages=1,
        downloads=1,
        downloads_with_mirrors=1,
        digest=digest,
        columns=("package",),
    )
    store = DumpFolder(folder)
    with store.opened():
        store.write_list(Dumps.listed([dump]))
        with (folder / name).open("wb") as file:
            file.truncate(DUMP_BYTES)
    return name


@contextmanager
def _requested(address: str, path: str) -> Iterator[socket.socket]:
    """A connection that has sent a request and received the first bytes of the answer."""
    parts = urlsplit(address)
    assert parts.hostname
    assert parts.port
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_SECONDS)
        client.connect((parts.hostname, parts.port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        yield client


def _assert_stops(process: Program | psutil.Popen, at_least: float = 0.0) -> None:
    """Stop the service, which ends in time with all its processes, and with status 0."""
    processes = [process, *process.children(recursive=True)]
    began = monotonic()
    process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
    seconds = monotonic() - began
    assert alive == []
    assert at_least <= seconds <= STOP_SECONDS
    assert process.returncode == 0


def test_the_default_stop_fits_into_docker_stop() -> None:
    assert CONNECTIONS_CLOSE_SECONDS < 2
    assert Settings().graceful_stop_seconds + 2 <= STOP_SECONDS


def test_clients_that_read_nothing_or_slowly(data_dir: Path, tmp_path: Path, workers: str) -> None:
    """Both clients are disconnected when the time is over, and the embedded Postgres is stopped."""
    name = _write_large_dump(data_dir / "dumps")
    log = tmp_path / "log"
    ended = threading.Event()

    def read_slowly(client: socket.socket) -> None:
        # The service resets the connection in the end.
        with suppress(OSError):
            while client.recv(1024) and not ended.wait(0.01):
                pass

    environment = {
        "INGEST_SOURCE": "none",
        "WORKERS": workers,
        "GRACEFUL_STOP_SECONDS": str(GRACEFUL_STOP_SECONDS),
    }
    with (
        served(data_dir, log, **environment) as (address, process),
        _requested(address, f"/api/dumps/{name}"),
        _requested(address, f"/api/dumps/{name}") as client,
    ):
        reader = threading.Thread(target=read_slowly, args=[client])
        reader.start()
        _assert_stops(process, at_least=GRACEFUL_STOP_SECONDS)
        ended.set()
        reader.join()
    assert servers(data_dir) == []
    assert "Traceback" not in log.read_text()


@pytest.fixture
def silent_source() -> Iterator[socket.socket]:
    """A server that accepts connections and sends nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(PATIENCE_SECONDS)
        yield listener


def _host(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_stop_finishes_downloads_and_cancels_the_ingest_job(
    database_url: str, data_dir: Path, tmp_path: Path, workers: str, silent_source: socket.socket
) -> None:
    name = _write_large_dump(data_dir / "dumps")
    log = tmp_path / "log"
    environment = {
        "DATABASE_URL": database_url,
        "WORKERS": workers,
        "BIGQUERY_EMULATOR_HOST": _host(silent_source),
        "INGEST_SCHEDULE": "0 0 * * *",
        # As long as a busy machine takes to send it.
        "GRACEFUL_STOP_SECONDS": "120",
    }
    with served(data_dir, log, (), **environment) as (address, process):
        caller, _ = silent_source.accept()
        with (
            caller,
            httpx.stream("GET", f"{address}/api/dumps/{name}", timeout=PATIENCE_SECONDS) as sent,
        ):
            process.terminate()
            wait_until(lambda: refuses(address))
            assert sum(len(part) for part in sent.iter_raw()) == DUMP_BYTES
            process.wait(PATIENCE_SECONDS)
            assert process.returncode == 0
    assert "Traceback" not in log.read_text()


async def test_a_silent_database(
    server_url: str,
    database_url: str,
    engine: AsyncEngine,
    data_dir: Path,
    tmp_path: Path,
    workers: str,
    silent_source: socket.socket,
) -> None:
    """A request waits for it, and so does the ingest job once it is cancelled. A client does not
    read its download. All settings have their defaults.
    """
    name = _write_large_dump(data_dir / "dumps")
    # The day after it is missing, so the job asks for it.
    await publish(engine, days_ago(1), downloads("flask", 1))
    log = tmp_path / "log"
    loop = asyncio.get_running_loop()

    def stop_in_silence(url: str) -> None:
        environment = {
            "DATABASE_URL": url,
            "WORKERS": workers,
            "BIGQUERY_EMULATOR_HOST": _host(silent_source),
            "INGEST_SCHEDULE": "0 0 * * *",
        }
        with served(data_dir, log, (), **environment) as (address, process):
            caller, _ = silent_source.accept()
            download = _requested(address, f"/api/dumps/{name}")
            with caller, download, socket.socket() as client:
                loop.call_soon_threadsafe(proxy.fall_silent)
                parts = urlsplit(address)
                client.connect((parts.hostname, parts.port))
                client.sendall(b"GET /api/packages/flask/recent HTTP/1.1\r\nHost: test\r\n\r\n")
                _assert_stops(process, at_least=Settings().graceful_stop_seconds)
                assert client.recv(12) == b"HTTP/1.1 503"

    async with Proxy(connect_to(server_url)).listening() as proxy:
        await asyncio.to_thread(stop_in_silence, through(proxy, database_url))
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("signals", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_the_service_starts(
    tmp_path: Path, silent_source: socket.socket, signals: signal.Signals
) -> None:
    """The database accepts connections, and says nothing."""
    log = tmp_path / "log"
    url = f"postgresql://postgres@127.0.0.1:{silent_source.getsockname()[1]}/stats"
    environment = {"DATABASE_URL": url, "PORT": str(free_port())}
    with started(["serve"], log, log, **environment) as process:
        caller, _ = silent_source.accept()
        with caller:
            began = monotonic()
            process.send_signal(signals)
            assert process.wait(PATIENCE_SECONDS) == 128 + signals
            assert monotonic() - began <= STOP_SECONDS
    assert "Traceback" not in log.read_text()
