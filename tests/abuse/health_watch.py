"""A process that measures how long a service takes to answer `/health`."""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

PAUSE_SECONDS = 0.02
TIMEOUT_SECONDS = 60.0


class HealthWatch:
    """The responses of `/health` during an attack.

    Another process measures them, so that the work of the attacker itself does not count. Neither
    does the time for which the processes wait for a core, which depends on the machine.
    """

    def __init__(self, control: Connection) -> None:
        self._control = control

    def slowest_of_next(self, count: int) -> float:
        """Wait for so many more responses. Return the longest time that any took so far."""
        self._control.send(count)
        slowest: float = self._control.recv()
        return slowest


@contextmanager
def watched_health(address: tuple[str, int], workers: Iterable[int]) -> Iterator[HealthWatch]:
    """Measure the responses of a service with these worker processes."""
    control, remote = get_context("forkserver").Pipe()
    process = get_context("forkserver").Process(
        target=_watch, args=(address, tuple(workers), remote)
    )
    process.start()
    remote.close()
    try:
        # The first response arrives before the attack begins.
        control.recv()
        yield HealthWatch(control)
    finally:
        control.close()
        process.join()


def _watch(address: tuple[str, int], workers: tuple[int, ...], control: Connection) -> None:
    slowest = _measure(address, workers)
    control.send(slowest)
    while True:
        slowest = max(slowest, _measure(address, workers))
        if control.poll(PAUSE_SECONDS):
            try:
                count = control.recv()
            except EOFError:
                return
            control.send(max(slowest, *(_measure(address, workers) for _ in range(count))))


def _measure(address: tuple[str, int], workers: tuple[int, ...]) -> float:
    """Return the seconds that a response takes on a new connection, as load balancers send it."""
    waited = [_waited_for_core(pid) for pid in (*workers, os.getpid())]
    began = monotonic()
    with socket.create_connection(address, TIMEOUT_SECONDS) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        received = b""
        while data := connection.recv(4096):
            received += data
    seconds = monotonic() - began
    assert received.startswith(b"HTTP/1.1 200 "), received
    assert received.endswith(b'{"status":"ok"}'), received
    *of_workers, own = (
        _waited_for_core(pid) - before
        for pid, before in zip((*workers, os.getpid()), waited, strict=True)
    )
    return seconds - max(of_workers) - own


def _waited_for_core(pid: int) -> float:
    """Return for how many seconds the main thread of a process was ready and had to wait."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
