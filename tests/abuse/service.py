"""A running service with two workers, and what attacks on it cost."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import httpx
import psutil

from tests.waiting import PATIENCE_SECONDS, wait_until

MAX_GROWTH_BYTES = 60 * 2**20
"""Maximum memory that a worker may hold after an attack in addition to the memory before it."""

MAX_HEALTH_SECONDS = 1.0
"""Maximum time for a response of `/health` during an attack."""

HEALTH_CHECKS = 20
"""Number of responses of `/health` after an attack has been sent."""

MAX_LOG_BYTES = 500_000
"""Maximum length of the log of an attack."""

PROXY = "127.0.0.1"
"""Address of the trusted proxy. The client that watches `/health` has it too."""


@dataclass(frozen=True)
class AttackedService:
    address: str
    process: psutil.Process
    log: Path

    @property
    def socket_address(self) -> tuple[str, int]:
        parts = urlsplit(self.address)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    def connect(self, client: str = "127.0.0.2") -> socket.socket:
        """Return a connection from this loopback address."""
        return socket.create_connection(
            self.socket_address, timeout=PATIENCE_SECONDS, source_address=(client, 0)
        )

    @contextmanager
    def connections(self, count: int, clients: int = 1) -> Iterator[list[socket.socket]]:
        """Open connections from so many addresses."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(self.connect(f"127.0.1.{number % clients + 1}"))
                for number in range(count)
            ]

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """Assert that an attack takes little memory and log, and does not delay other clients."""
        before = self._memory()
        log_bytes = self.log.stat().st_size
        with self._watched_health() as seconds:
            yield
            # The service works on what was sent while it answers these requests.
            answered = len(seconds)
            wait_until(lambda: len(seconds) >= answered + HEALTH_CHECKS)
        after = self._memory()
        assert after.keys() == before.keys(), "a worker has ended"
        growth = {pid: after[pid] - before[pid] for pid in before}
        assert max(growth.values()) <= MAX_GROWTH_BYTES, growth
        with self.log.open() as log:
            log.seek(log_bytes)
            lines = log.read()
        assert "Traceback" not in lines
        assert len(lines) <= MAX_LOG_BYTES

    def _memory(self) -> dict[int, int]:
        """Return the resident memory of each worker."""
        return {
            child.pid: child.memory_info().rss
            for child in self.process.children()
            if "spawn_main" in " ".join(child.cmdline())
        }

    @contextmanager
    def _watched_health(self) -> Iterator[list[float]]:
        ended = threading.Event()
        seconds: list[float] = []

        def watch() -> None:
            while not ended.wait(0.05):
                began = monotonic()
                # A new connection each time, as a load balancer does it.
                assert httpx.get(f"{self.address}/health", timeout=60).status_code == 200
                seconds.append(monotonic() - began)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield seconds
        finally:
            ended.set()
            watcher.join()
        assert max(seconds) <= MAX_HEALTH_SECONDS


def send(connection: socket.socket, data: bytes) -> None:
    """Send what the service accepts without waiting for it, even if it closes the connection."""
    connection.setblocking(False)
    try:
        while data:
            data = data[connection.send(data) :]
    except OSError:
        pass
    finally:
        connection.setblocking(True)
