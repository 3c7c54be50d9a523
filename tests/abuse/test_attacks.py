"""Attacks on a service with two workers, over real sockets.

`make test-abuse` runs these. Each test is one client, or a few, that tries to take the memory, the
connections or the attention of the service.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPResponse
from pathlib import Path

import pytest

from app.ingest.sources.sample import PACKAGES
from tests.abuse.service import PROXY, AttackedService, send
from tests.processes import SERVE, get, served
from tests.waiting import PATIENCE_SECONDS, wait_until

HOST = b"Host: test\r\n"

BULK = "/api/bulk/overall?" + "&".join(f"package={name}" for name in PACKAGES[:100])


@pytest.fixture(scope="module")
def service(
    _session_sample_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AttackedService]:
    folder = tmp_path_factory.mktemp("attacked")
    log = folder / "log"
    environment = {
        "DATABASE_URL": _session_sample_url,
        "WORKERS": "2",
        "RATE_LIMITS": "10/second;300/minute",
        "TRUSTED_PROXIES": PROXY,
    }
    with served(folder, log, SERVE, **environment) as (address, process):
        for number in range(200):
            # The memory of a service that has just started is less than normal.
            headers = {"X-Forwarded-For": f"192.0.2.{number}"}
            get(f"{address}/api/packages/requests/python_minor", **headers).raise_for_status()
        yield AttackedService(address, process, log)


def _request(path: bytes, *headers: bytes) -> bytes:
    return b"".join((b"GET ", path, b" HTTP/1.1\r\n", HOST, *headers, b"\r\n"))


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /x HTTP/1.1\r\n\r\n",
        _request(b"/x"),
        _request(b"/health"),
        _request(b"/api/packages/requests/python_minor"),
    ],
)
@pytest.mark.parametrize("clients", [1, 40])
def test_pipelined_requests(service: AttackedService, request_bytes: bytes, clients: int) -> None:
    with service.connections(400, clients) as connections, service.attacked():
        for connection in connections:
            send(connection, request_bytes * 1000)


@pytest.mark.parametrize("end", [b"", b"\r\n"])
@pytest.mark.parametrize("clients", [1, 40])
def test_many_tiny_headers(service: AttackedService, end: bytes, clients: int) -> None:
    head = b"GET /x HTTP/1.1\r\n" + HOST + b"a:\r\n" * 9_900 + end
    with service.connections(1000, clients) as connections, service.attacked():
        for connection in connections:
            send(connection, head)


def test_heads_that_never_end(service: AttackedService) -> None:
    with service.connections(1000, clients=40) as connections, service.attacked():
        for connection in connections:
            send(connection, b"GET /x HTTP/1.1\r\n" + HOST + b"a: " + b"x" * 50_000)


def test_bodies_that_never_end(service: AttackedService) -> None:
    head = b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    with service.connections(300, clients=10) as connections, service.attacked():
        for connection in connections:
            send(connection, head + b"1;" + b"x" * 300_000)


def test_unread_responses(service: AttackedService) -> None:
    with ExitStack() as stack, service.attacked():
        for number in range(420):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            # Each client stays below its rate limit.
            connection.bind((f"127.0.2.{number // 8 + 1}", 0))
            connection.settimeout(PATIENCE_SECONDS)
            connection.connect(service.socket_address)
            connection.sendall(_request(BULK.encode()) * 2)
            # The service has begun to respond.
            with suppress(ConnectionResetError):
                connection.recv(1)


def test_addresses_that_are_none(service: AttackedService) -> None:
    """A trusted proxy forwards any text as the address of its client."""
    with service.connect(PROXY) as connection, service.attacked():
        for number in range(8_000):
            forwarded = f"fe80::1%{number}".ljust(15_000, "x")
            header = f"X-Forwarded-For: {forwarded}\r\n".encode()
            connection.sendall(_request(b"/api/packages/requests/recent", header))
            response = HTTPResponse(connection)
            response.begin()
            response.read()
    assert f"client={PROXY} " in service.log.read_text()


def test_a_rejected_client_that_goes_on(service: AttackedService) -> None:
    request = _request(b"/api/packages/requests/recent")
    with service.connect() as connection, service.attacked():
        connection.sendall(request * 20_000 + _request(b"/x", b"Connection: close\r\n"))
        received = 0
        while data := connection.recv(2**20):
            received += data.count(b"HTTP/1.1 429 ")
    assert received >= 19_900


@pytest.mark.parametrize(
    "sent",
    [
        _request(b"/health") * 50,
        _request(b"/api/packages/requests/python_minor") * 50,
        _request(b"/api/status", b"Content-Length: 100\r\n") + b"x",
        _request(b"/x", b"Transfer-Encoding: chunked\r\n") + b"zz\r\n",
        b"GET /health HTTP/1.1\r\nHo",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50,
        bytes(range(256)) * 50,
        b"",
    ],
)
def test_clients_that_go_away(service: AttackedService, sent: bytes) -> None:
    """Their connections are reset, half closed, or closed at any time."""
    with service.attacked():
        for number in range(200):
            with service.connect(f"127.0.3.{number // 8 + 1}") as connection:
                connection.sendall(sent)
                if number % 4 == 0:
                    connection.shutdown(socket.SHUT_WR)
                elif number % 4 == 1:
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                elif number % 4 == 2:
                    connection.settimeout(0.01)
                    with suppress(OSError):
                        connection.recv(100)


def test_more_connections_than_files(sample_url: str, tmp_path: Path) -> None:
    """With few file descriptors, idle connections make room for others."""
    log = tmp_path / "log"
    environment = {"DATABASE_URL": sample_url, "WORKERS": "2"}
    with served(tmp_path, log, ("prlimit", "--nofile=256:256", *SERVE), **environment) as (
        address,
        process,
    ):
        get(f"{address}/health").raise_for_status()
        service = AttackedService(address, process, log)
        with service.connections(300, clients=3) as idle, service.attacked():
            for _ in range(50):
                get(f"{address}/api/packages/requests/recent").raise_for_status()
            assert idle
        metrics = get(f"{address}/metrics").text
    assert 'pypi_stats_connections_closed_total{reason="total"}' in metrics
    assert "MAX_CONNECTIONS is reached" in log.read_text()


def test_a_log_that_nobody_reads(sample_url: str, tmp_path: Path) -> None:
    """Standard error is a pipe. The service drops lines, counts them, and stops in time."""
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    environment = {"DATABASE_URL": sample_url, "WORKERS": "2"}
    with served(tmp_path, log, SERVE, **environment) as (address, process):
        service = AttackedService(address, process, log)
        with ExitStack() as stack:
            connections = [stack.enter_context(service.connect()) for _ in range(20)]
            path = b"/api/packages/requests/recent?period=" + b"day" * 90

            def has_dropped() -> bool:
                for connection in connections:
                    send(connection, _request(path) * 300)
                    connection.recv(2**20)
                metrics = get(f"{address}/metrics").text
                return "\npypi_stats_log_lines_dropped_total 0.0" not in metrics

            wait_until(has_dropped)
        assert get(f"{address}/health").status_code == 200
    os.close(reader)
