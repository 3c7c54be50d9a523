"""A running service with two workers, and what attacks on it cost."""

import json
import re
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

import psutil

from tests.abuse.health_watch import watched_health
from tests.processes import get
from tests.waiting import PATIENCE_SECONDS, wait_until

MAX_GROWTH_BYTES = 60 * 2**20
"""Maximum memory that a worker may hold after an attack in addition to its normal memory."""

RELEASE_SECONDS = 5.0
"""How long a worker may take after an attack to release memory."""

MAX_HEALTH_SECONDS = 1.0
"""Maximum time for a response of `/health` during an attack."""

HEALTH_CHECKS = 10
"""Number of responses of `/health` after an attack has been sent, while the service works on it."""

ATTEMPTS = 3
"""Maximum number of attempts to stay within `MAX_HEALTH_SECONDS`. Other programs on the machine
delay single responses. A defect of the service delays them in each attempt.
"""

MAX_LOG_BYTES = 200_000
"""Maximum length of the log of an attack, without the lines of requests that are not rejected."""

_ANSWERED = re.compile(r" (?!401|429)\d{3} \[app\.requests\] ")

PROXY = "127.0.0.1"
"""Address of the trusted proxy. The client that watches `/health` has it too."""

UNLIMITED_CLIENT = "127.200.0.1"
"""Address of a client without rate limits."""

_networks = count(1)


class Attacker:
    """Clients from a network of loopback addresses that no other attack uses."""

    def __init__(self, address: tuple[str, int], stack: ExitStack) -> None:
        self._address = address
        self._stack = stack
        self._network = f"127.{next(_networks)}"

    def connect(self, client: int | str = 0, receive_buffer: int | None = None) -> socket.socket:
        """Return a connection of the client with this number or address."""
        host = client if isinstance(client, str) else self._host(client)
        connection = self._stack.enter_context(socket.socket())
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.bind((host, 0))
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(self._address)
        return connection

    def _host(self, client: int) -> str:
        return f"{self._network}.{client // 250}.{client % 250 + 1}"

    def connections(self, number: int, clients: int = 1) -> list[socket.socket]:
        """Return connections of so many clients."""
        return [self.connect(one % clients) for one in range(number)]


Attack = Callable[[Attacker], object]


@dataclass
class AttackedService:
    socket_address: tuple[str, int]
    process: psutil.Process
    log: Path
    normal_bytes: dict[int, int] = field(init=False)
    """Resident memory of each worker before the attacks."""

    def __post_init__(self) -> None:
        self.normal_bytes = self._memory()

    @classmethod
    def at(cls, address: str, process: psutil.Process, log: Path) -> "AttackedService":
        parts = urlsplit(address)
        assert parts.hostname
        assert parts.port
        workers: set[str] = set()

        def have_answered() -> bool:
            # The ids of a worker's requests have a prefix of their own.
            workers.add(get(f"{address}/health").headers["X-Request-ID"][:8])
            return len(workers) == 2

        wait_until(have_answered)
        return cls((parts.hostname, parts.port), process, log)

    def assert_withstands(self, attack: Attack) -> None:
        """Assert that an attack takes little memory and log, and does not delay other clients."""
        slowest = []
        for _ in range(ATTEMPTS):
            slowest.append(self._attacked(attack))
            if slowest[-1] <= MAX_HEALTH_SECONDS:
                return
        raise AssertionError(f"/health took {slowest} seconds")

    def _attacked(self, attack: Attack) -> float:
        """Return the time of the slowest response of `/health` during an attack."""
        log_bytes = self.log.stat().st_size
        with watched_health(self.socket_address, self.normal_bytes) as health, ExitStack() as stack:
            attack(Attacker(self.socket_address, stack))
            slowest = health.slowest_of_next(HEALTH_CHECKS)
        self._assert_memory_is_released()
        lines = self.log.read_bytes()[log_bytes:].decode()
        assert "Traceback" not in lines, lines[-5000:]
        rejected = [line for line in lines.splitlines() if not _ANSWERED.search(line)]
        assert sum(map(len, rejected)) <= MAX_LOG_BYTES, rejected[-10:]
        return slowest

    def _assert_memory_is_released(self) -> None:
        began = monotonic()
        while True:
            memory = self._memory()
            assert memory.keys() == self.normal_bytes.keys(), "a worker has ended"
            growth = [used - self.normal_bytes[pid] for pid, used in memory.items()]
            if max(growth) <= MAX_GROWTH_BYTES:
                return
            assert monotonic() - began < RELEASE_SECONDS, growth
            sleep(0.05)

    def _memory(self) -> dict[int, int]:
        """Return the resident memory of each worker."""
        return {
            child.pid: child.memory_info().rss
            for child in self.process.children()
            if "spawn_main" in " ".join(child.cmdline())
        }


def send(connection: socket.socket, data: bytes) -> None:
    """Send what the service accepts without waiting for it, even if it closes the connection."""
    connection.setblocking(False)
    try:
        while data:
            data = data[connection.send(data) :]
    except OSError:
        pass
    finally:
        connection.settimeout(PATIENCE_SECONDS)


def exchange(connection: socket.socket, sent: bytes, count: int) -> list[int]:
    """Send requests and return the statuses of so many responses, without their bodies."""
    connection.sendall(sent)
    received = b""
    while len(found := statuses(received)) < count:
        data = connection.recv(2**20)
        assert data, received[-1000:]
        received += data
    return found


def received_until_closed(connection: socket.socket) -> bytes:
    """Return everything that the service sends until it closes the connection."""
    parts = []
    try:
        while data := connection.recv(2**20):
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def dump_path(attacker: Attacker) -> bytes:
    """Return the path of a dump that the service lists."""
    connection = attacker.connect(UNLIMITED_CLIENT)
    connection.sendall(request(b"/api/dumps", b"Connection: close\r\n"))
    body = received_until_closed(connection).partition(b"\r\n\r\n")[2]
    name: str = json.loads(body)["data"][0]["name"]
    return f"/api/dumps/{name}".encode()


def request(target: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    """Return a request on the wire. Each header ends with a line break."""
    return b"".join((method, b" ", target, b" HTTP/1.1\r\nHost: test\r\n", *headers, b"\r\n"))
