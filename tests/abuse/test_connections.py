"""Attacks on what connections hold: requests, responses, and the connections themselves."""

import socket
import struct
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

from app.ingest.sources.sample import PACKAGES
from tests.abuse.service import (
    AttackedService,
    Attacker,
    dump_path,
    received_until_closed,
    request,
    send,
    statuses,
)
from tests.processes import SERVE, get, served

BULK = request(b"/api/bulk/overall?" + "&".join(f"package={name}" for name in PACKAGES).encode())


@pytest.mark.parametrize(
    ("sent", "clients"),
    [
        (b"GET /x HTTP/1.1\r\n\r\n", 1),
        (b"GET /x HTTP/1.1\r\n\r\n", 40),
        (request(b"/x"), 40),
        (request(b"/health"), 40),
        (request(b"/api/packages/requests/python_minor"), 40),
        (BULK[: BULK.index(b"&")] + BULK[-22:], 40),
    ],
)
def test_pipelined_requests(service: AttackedService, sent: bytes, clients: int) -> None:
    def attack(attacker: Attacker) -> None:
        for connection in attacker.connections(400, clients):
            send(connection, sent * 1000)

    service.assert_withstands(attack)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /x HTTP/1.1\r\nHost: test\r\n" + b"a:\r\n" * 9_900,
        b"GET /x HTTP/1.1\r\nHost: test\r\n" + b"a:\r\n" * 9_900 + b"\r\n",
        b"GET /x HTTP/1.1\r\nHost: test\r\na: " + b"x" * 40_000,
        b"GET /x HTTP/1.1\r\nHost: test\r\n" + b"x" * 40_000,
        b"GET /" + b"x" * 40_000,
        b"POST /x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 40_000,
        b"POST /x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\nx\r\n" * 10_000,
        b"POST /x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"a:\r\n" * 9_900,
        b"\r\n" * 20_000,
    ],
    ids=["headers", "head", "value", "name", "target", "chunk", "chunks", "trailers", "nothing"],
)
def test_requests_without_end(service: AttackedService, sent: bytes) -> None:
    def attack(attacker: Attacker) -> None:
        for connection in attacker.connections(1000, clients=40):
            send(connection, sent)

    service.assert_withstands(attack)


@pytest.mark.parametrize("kind", ["bulk", "dump"])
def test_unread_responses(service: AttackedService, kind: str) -> None:
    def attack(attacker: Attacker) -> None:
        sent = BULK if kind == "bulk" else request(dump_path(attacker))
        for number in range(420):
            # Each client stays below its rate limit.
            connection = attacker.connect(number // 8, receive_buffer=4096)
            connection.sendall(sent * 2)
            # The service has begun to respond.
            with suppress(ConnectionResetError):
                connection.recv(1)

    service.assert_withstands(attack)


@pytest.mark.parametrize(
    "sent",
    [
        request(b"/health") * 50,
        request(b"/api/packages/requests/python_minor") * 50,
        request(b"/api/status", b"Content-Length: 100\r\n") + b"x",
        request(b"/x", b"Transfer-Encoding: chunked\r\n") + b"zz\r\n",
        b"GET /health HTTP/1.1\r\nHo",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50,
        bytes(range(256)) * 50,
        b"",
    ],
)
def test_clients_that_go_away(service: AttackedService, sent: bytes) -> None:
    """Clients reset, half-close or close their connections at any time."""

    def attack(attacker: Attacker) -> None:
        for number in range(200):
            connection = attacker.connect(number // 8)
            connection.sendall(sent)
            if number % 4 == 0:
                connection.shutdown(socket.SHUT_WR)
            elif number % 4 == 1:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            elif number % 4 == 2:
                connection.settimeout(0.001)
                with suppress(OSError):
                    connection.recv(100)
            if number % 8:
                connection.close()

    service.assert_withstands(attack)


def test_slow_clients(service: AttackedService) -> None:
    """Clients send one byte per second, in each part of a request. Each gets a 408 in time."""
    parts = [
        b"GET /" + b"x" * 100,
        b"GET /x HTTP/1.1\r\nHost: test\r\n" + b"a: b\r\n" * 20,
        request(b"/x", b"Content-Length: 100\r\n") + b"x" * 99,
        request(b"/x", b"Transfer-Encoding: chunked\r\n") + b"1\r\nx\r\n" * 20,
        request(b"/x", b"Transfer-Encoding: chunked\r\n") + b"0\r\n" + b"a: b\r\n" * 20,
    ]

    def attack(attacker: Attacker) -> None:
        connections = [
            (attacker.connect(number), parts[number % len(parts)]) for number in range(300)
        ]
        began = monotonic()
        sent = 0
        while monotonic() - began < 12:
            for connection, part in connections:
                send(connection, part[sent : sent + 1] if sent else part[:20])
            sent = sent + 1 if sent else 20
            sleep(0.5)
        assert [statuses(received_until_closed(one)) for one, _ in connections] == [[408]] * 300

    service.assert_withstands(attack)


def test_idle_connections(sample_data: str, tmp_path: Path) -> None:
    """A client with too many connections loses its idle ones. So do all clients together, if the
    operating system allows few open files.
    """
    log = tmp_path / "log"
    environment = {
        "DATABASE_URL": sample_data,
        "WORKERS": "2",
        "MAX_CONNECTIONS_PER_CLIENT": "50",
    }
    command = ("prlimit", "--nofile=200:256", *SERVE)
    with served(tmp_path, log, command, **environment) as (address, process):
        service = AttackedService.at(address, process, log)
        for pid in service.normal_bytes:
            assert psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE) == (256, 256)
        for clients, message in (
            (1, "MAX_CONNECTIONS_PER_CLIENT is reached"),
            (50, "MAX_CONNECTIONS is reached"),
        ):

            def attack(attacker: Attacker, clients: int = clients) -> None:
                attacker.connections(400, clients)
                for _ in range(10):
                    get(f"{address}/api/packages/requests/recent").raise_for_status()

            service.assert_withstands(attack)
            assert message in log.read_text()
        metrics = get(f"{address}/metrics").text
    for reason in ("client", "total"):
        assert f'pypi_stats_connections_closed_total{{reason="{reason}"}}' in metrics
