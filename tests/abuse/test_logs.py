"""Attacks on the log."""

import os
from contextlib import ExitStack
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path

import pytest

from tests.abuse.service import (
    AttackedService,
    Attacker,
    received_until_closed,
    request,
    statuses,
)
from tests.processes import SERVE, get, served
from tests.waiting import PATIENCE_SECONDS, wait_until

CLOSE = b"Connection: close\r\n"


def test_rejected_client(service: AttackedService) -> None:
    """Each worker logs some ten of 5,000 rejected requests."""

    def attack(attacker: Attacker) -> None:
        connection = attacker.connect()
        sent = request(b"/api/packages/requests/recent")
        log_bytes = service.log.stat().st_size
        connection.sendall(sent * 5_000 + request(b"/x", CLOSE))
        assert statuses(received_until_closed(connection)).count(429) >= 4_000
        assert service.log.stat().st_size - log_bytes < 100_000

    service.assert_withstands(attack)


PREFLIGHT = b"Access-Control-Request-Method: GET\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        request(b"/health"),
        request(b"/api/packages/requests/recent", PREFLIGHT, method=b"OPTIONS"),
        request(b"/api/packages/requests/recent", b"If-None-Match: *\r\n"),
    ],
)
def test_requests_without_a_limit(service: AttackedService, sent: bytes) -> None:
    """Each worker logs some 600 of 5,000 requests that count for no rate limit."""

    def attack(attacker: Attacker) -> None:
        connection = attacker.connect()
        log_bytes = service.log.stat().st_size
        connection.sendall(sent * 5_000 + request(b"/x", CLOSE))
        assert len(statuses(received_until_closed(connection))) == 5_001
        assert service.log.stat().st_size - log_bytes < 200_000

    service.assert_withstands(attack)


def test_refused_clients(service: AttackedService) -> None:
    """Clients that send nonsense on a new connection each time."""

    def attack(attacker: Attacker) -> None:
        log_bytes = service.log.stat().st_size
        for number in range(500):
            connection = attacker.connect(number % 2)
            connection.sendall(b"nonsense \x1b[31m\r\n\r\n")
            assert statuses(received_until_closed(connection)) == [400]
            connection.close()
        assert service.log.stat().st_size - log_bytes < 20_000

    service.assert_withstands(attack)
    assert "\x1b" not in service.log.read_text()


def test_log_that_is_not_read(sample_data: str, tmp_path: Path) -> None:
    """Standard error is a pipe. The service drops lines, counts them, and stops in time."""
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    environment = {"DATABASE_URL": sample_data, "WORKERS": "2"}
    with served(tmp_path, log, SERVE, **environment) as (address, process):
        fcntl(reader, F_SETPIPE_SZ, 4096)
        host, _, port = address.removeprefix("http://").rpartition(":")
        for _ in range(80):
            # Each worker logs the first ten refusals of a client.
            with ExitStack() as stack:
                attacker = Attacker((host, int(port)), stack)
                for connection in attacker.connections(10):
                    connection.sendall(b"nonsense\r\n\r\n")
        wait_until(
            lambda: "\npypi_stats_log_lines_dropped_total 0.0" not in get(f"{address}/metrics").text
        )
        assert get(f"{address}/health").status_code == 200
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    os.close(reader)
