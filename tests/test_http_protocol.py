"""Requests that are none: too large, too slow, or nonsense. Over the wire."""

import json
import socket
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest

from app.api.schemas import Problem
from app.http_protocol import (
    HEAD_TIMEOUT_SECONDS,
    MAX_BODY_BYTES,
    MAX_HEADERS_BYTES,
    MAX_TARGET_BYTES,
)
from tests.processes import served

RECENT = b"GET /api/packages/requests/recent HTTP/1.1\r\nHost: test\r\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with (
        tempfile.TemporaryDirectory(prefix="pypi-stats-") as folder,
        served(Path(folder), tmp_path_factory.mktemp("log") / "log") as (url, _),
    ):
        yield "127.0.0.1", int(url.rpartition(":")[2])


def _answer(connection: socket.socket) -> tuple[HTTPResponse, bytes]:
    response = HTTPResponse(connection)
    response.begin()
    return response, response.read()


def _assert_refused(connection: socket.socket, status: int) -> None:
    """With an error like every other; then the connection ends."""
    response, body = _answer(connection)
    assert response.status == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["x-content-type-options"] == "nosniff"
    problem = Problem.model_validate_json(body, strict=True, extra="forbid")
    assert problem.status == status
    assert problem.request_id == response.headers["x-request-id"] != ""
    assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"GET /" + b"x" * MAX_TARGET_BYTES + b" HTTP/1.1\r\nHost: test\r\n\r\n", 414),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: test\r\n\r\n", 414),
        (RECENT + b"X: " + b"x" * MAX_HEADERS_BYTES + b"\r\n\r\n", 431),
        (RECENT + b"X: x\r\n" * (MAX_HEADERS_BYTES // 2) + b"\r\n", 431),
        (RECENT + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), 413),
        (RECENT + b"Transfer-Encoding: chunked\r\n\r\n", 411),
    ],
)
def test_what_is_no_request_is_refused(
    address: tuple[str, int], request_bytes: bytes, status: int
) -> None:
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(request_bytes)
        _assert_refused(connection, status)


@pytest.mark.parametrize("begin", [RECENT + b"X: ", b"GET /"])
def test_a_head_without_an_end_is_not_waited_for(address: tuple[str, int], begin: bytes) -> None:
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(begin)
        sent = 0
        while sent <= MAX_TARGET_BYTES + MAX_HEADERS_BYTES:
            sent += connection.send(b"x" * 1000)
            time.sleep(0.001)
        _assert_refused(connection, 431)


def test_a_client_that_goes_on_sending_is_told_why(address: tuple[str, int]) -> None:
    host, port = address
    response = httpx.post(f"http://{host}:{port}/api/status", content=b"x" * 20_000_000)
    assert response.status_code == 413


def test_a_slow_head_is_told_and_silence_is_not(address: tuple[str, int]) -> None:
    with (
        socket.create_connection(address, timeout=HEAD_TIMEOUT_SECONDS + 5) as slow,
        socket.create_connection(address, timeout=HEAD_TIMEOUT_SECONDS + 5) as silent,
        socket.create_connection(address, timeout=HEAD_TIMEOUT_SECONDS + 5) as kept,
    ):
        began = time.monotonic()
        slow.sendall(RECENT)
        kept.sendall(RECENT + b"\r\n")
        assert _answer(kept)[0].status == 200
        kept.sendall(RECENT)
        _assert_refused(slow, 408)
        _assert_refused(kept, 408)
        assert silent.recv(1) == b""
        assert time.monotonic() - began > HEAD_TIMEOUT_SECONDS - 1


def test_what_is_a_request_is_answered(address: tuple[str, int]) -> None:
    """On one connection: with a small body, after the other, and several at once."""
    with socket.create_connection(address, timeout=5) as connection:
        small = RECENT + b"Content-Length: 2\r\n\r\n{}"
        upgrade = RECENT + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"
        for sent in (RECENT + b"\r\n", small, upgrade):
            connection.sendall(sent)
            response, body = _answer(connection)
            assert response.status == 200
            assert json.loads(body)["package"] == "requests"
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n" * 3)
        received = b""
        while received.count(b'{"status":"ok"}') < 3:
            received += connection.recv(4096)
        assert received.count(b"HTTP/1.1 200 OK") == 3
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert _answer(connection)[0].status == 200
        assert connection.recv(1) == b""


def test_refusals_are_counted(address: tuple[str, int]) -> None:
    host, port = address

    def refused() -> float:
        lines = httpx.get(f"http://{host}:{port}/metrics").text.splitlines()
        name = 'pypi_stats_requests_total{route="none",status="400"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = refused()
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        _assert_refused(connection, 400)
    assert refused() == before + 1
