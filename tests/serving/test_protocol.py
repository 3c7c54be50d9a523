"""Requests that are none: too large, too slow, or nonsense. Over the wire."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from http.client import HTTPResponse
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problem_details import Problem
from app.serving import connection_timers, connections, protocol
from app.serving.connections import Connections
from app.serving.log_line_limit import LogLineLimit
from app.serving.protocol import BoundedHTTPProtocol
from app.serving.proxies import TrustedProxies
from app.serving.request_bounds import (
    MAX_BODY_BYTES,
    MAX_HEADERS,
    MAX_HEADERS_BYTES,
    MAX_INCOMPLETE_HEAD_BYTES,
    MAX_TARGET_BYTES,
    PIECE_BYTES,
)
from app.serving.server import UNSENT_BYTES, bound_unread_data
from tests.processes import free_port, get
from tests.waiting import PATIENCE_SECONDS, until

RECENT = b"GET /api/packages/requests/recent HTTP/1.1\r\nHost: test\r\n"


@pytest.fixture(scope="session")
def address(address: str) -> tuple[str, int]:
    """Return the server's address for a socket."""
    return "127.0.0.1", int(address.rpartition(":")[2])


def _answer(connection: socket.socket) -> tuple[HTTPResponse, bytes]:
    response = HTTPResponse(connection)
    response.begin()
    return response, response.read()


def _assert_refused(connection: socket.socket, status: int) -> HTTPResponse:
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
    return response


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"GET /" + b"x" * MAX_TARGET_BYTES + b" HTTP/1.1\r\nHost: test\r\n\r\n", 414),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: test\r\n\r\n", 414),
        # Before it is all there.
        (b"GET /" + b"x" * (MAX_INCOMPLETE_HEAD_BYTES), 414),
        (RECENT + b"X: " + b"x" * (MAX_INCOMPLETE_HEAD_BYTES), 431),
        (RECENT + b"X: " + b"x" * MAX_HEADERS_BYTES + b"\r\n\r\n", 431),
        (RECENT + b"X: x\r\n" * (MAX_HEADERS_BYTES // 2) + b"\r\n", 431),
        (RECENT + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), 413),
        (RECENT + b"Content-Length: 9\r\nContent-Length: 0\r\n\r\n", 400),
        (RECENT + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (RECENT + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n", 400),
        (RECENT + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", 400),
        (RECENT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (RECENT + b"Transfer-Encoding: chunked\r\n\r\n9999\r\n" + b"x" * 0x9999, 413),
        (RECENT + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 40_000, 413),
        (RECENT + b"a:\r\n" * MAX_HEADERS + b"\r\n", 431),
        # Before it is complete.
        (RECENT + b"a:\r\n" * 1000, 431),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (RECENT + b"Host: other\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: two words\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: one\r\nHost: other\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\nHost: test\r\n\r\n", 400),
        (b"GET / HTTP/1.2\r\nHost: test\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: test\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
def test_invalid_requests_are_refused(
    address: tuple[str, int], request_bytes: bytes, status: int
) -> None:
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(request_bytes)
        assert _assert_refused(connection, status).headers["x-data-source"] == "sample"


@pytest.mark.parametrize(("begin", "status"), [(RECENT + b"X: ", 431), (b"GET /", 414)])
def test_an_endless_head_is_refused(address: tuple[str, int], begin: bytes, status: int) -> None:
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(begin)
        sent = 0
        while sent <= MAX_INCOMPLETE_HEAD_BYTES:
            sent += connection.send(b"x" * 1000)
            time.sleep(0.001)
        _assert_refused(connection, status)


def test_a_client_that_continues_sending_receives_the_error(address: tuple[str, int]) -> None:
    host, port = address
    response = httpx.post(
        f"http://{host}:{port}/api/status", content=b"x" * 20_000_000, timeout=PATIENCE_SECONDS
    )
    assert response.status_code == 413


def test_unusual_but_valid_requests_are_answered(address: tuple[str, int]) -> None:
    """On one connection: with a small body, after the other, and several at once."""
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        small = RECENT + b"Content-Length: 2\r\n\r\n{}"
        upgrade = RECENT + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"
        for sent in (RECENT + b"\r\n", small, upgrade):
            connection.sendall(sent)
            response, body = _answer(connection)
            assert response.status == 200
            assert json.loads(body)["package"] == "requests"
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n" * 3)
        received = b""
        while received.count(b'{"status":"ok"}') < 3:
            received += connection.recv(4096)
        assert received.count(b"HTTP/1.1 200 OK") == 3
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert _answer(connection)[0].status == 200
        assert connection.recv(1) == b""
    # HTTP/1.0 has no status 100.
    for version, status in ((b"1.0", b"200"), (b"1.1", b"100")):
        with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
            head = b"GET /health HTTP/%b\r\nHost: test\r\nExpect: 100-continue\r\n\r\n"
            connection.sendall(head % version)
            assert connection.recv(12) == b"HTTP/1.1 " + status


def test_a_refusal_follows_the_responses_before_it(address: tuple[str, int]) -> None:
    good = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(
            good * 400 + b"GET /" + b"x" * 30_000 + b" HTTP/1.1\r\nHost: t\r\n\r\n" + good
        )
        received = b""
        while more := connection.recv(65536):
            received += more
    assert received.count(b"HTTP/1.1 200 OK") == 400
    assert received.count(b"HTTP/1.1 414 ") == 1
    assert received.rpartition(b"\r\n\r\n")[2].startswith(b'{"type":"about:blank"')


def test_a_half_closed_connection_still_gets_the_response(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(RECENT.replace(b"recent", b"overall") + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        response, body = _answer(connection)
        assert (response.status, json.loads(body)["package"]) == (200, "requests")


@pytest.fixture
async def impatient(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[uvicorn.Server]:
    """A server in this process that has short timeouts and sends large bodies."""
    for timer in ("ARRIVAL_TIMEOUT_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(protocol, timer, 0.5)
    monkeypatch.setattr(connection_timers, "CLIENT_READ_TIMEOUT_SECONDS", 1.0)

    async def much(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * 50_000_000)(scope, receive, send)

    async with _serving(much, timeout_keep_alive=1) as server:
        yield server


def _address(server: uvicorn.Server) -> tuple[str, int]:
    return "127.0.0.1", server.config.port


@asynccontextmanager
async def _serving(
    app: ASGIApp, proxies: Sequence[str] = (), **options: Any
) -> AsyncIterator[uvicorn.Server]:
    port = free_port()
    # The protocol finds the bounds in the application, and functions declare no attributes.
    app.connections = Connections(1000, 1000, TrustedProxies(proxies), LogLineLimit())  # type: ignore[attr-defined]
    config = uvicorn.Config(
        app,
        port=port,
        http=BoundedHTTPProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        **options,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield server
    finally:
        server.should_exit = True
        await serving


async def test_a_slow_head_gets_408_and_a_silent_client_nothing(impatient: uvicorn.Server) -> None:
    def check() -> None:
        with (
            socket.create_connection(_address(impatient), timeout=PATIENCE_SECONDS) as slow,
            socket.create_connection(_address(impatient), timeout=PATIENCE_SECONDS) as silent,
            socket.create_connection(_address(impatient), timeout=PATIENCE_SECONDS) as kept,
        ):
            began = time.monotonic()
            slow.sendall(RECENT)
            kept.sendall(b"HEAD / HTTP/1.1\r\nHost: t\r\n\r\n" + RECENT)
            assert b"HTTP/1.1 200" in kept.recv(65536)
            _assert_refused(slow, 408)
            _assert_refused(kept, 408)
            assert silent.recv(1) == b""
            assert time.monotonic() - began > 0.9 * protocol.ARRIVAL_TIMEOUT_SECONDS

    await asyncio.to_thread(check)


async def test_blank_lines_do_not_keep_a_connection(impatient: uvicorn.Server) -> None:
    reader, writer = await asyncio.open_connection(*_address(impatient))
    closed = asyncio.create_task(reader.read())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not closed.done():
            writer.write(b"\r\n")
            await asyncio.wait([closed], timeout=0.2)
    assert await closed == b""
    writer.close()


@pytest.mark.parametrize(
    "left_over",
    [b"", b"\r\n", b"\r\n\r\n", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nx"],
)
async def test_idle_connections_are_closed(impatient: uvicorn.Server, left_over: bytes) -> None:
    reader, writer = await asyncio.open_connection(*_address(impatient))
    writer.write(b"HEAD / HTTP/1.1\r\nHost: t\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.write(left_over)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await reader.read(65536):
            pass
    writer.close()


async def _read(reader: asyncio.StreamReader, pause: float = 0) -> int:
    """How many bytes come until the connection ends, in whatever way."""
    received = 0
    with suppress(ConnectionResetError):
        while more := await reader.read(1_000_000):
            received += len(more)
            await asyncio.sleep(pause)
    return received


async def test_a_connection_with_an_unread_response_is_aborted(impatient: uvicorn.Server) -> None:
    reader, writer = await asyncio.open_connection(*_address(impatient))
    writer.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
    connections = impatient.server_state.connections
    await until(lambda: connections)
    await until(lambda: not connections)
    assert await _read(reader) < 50_000_000
    writer.close()


async def test_a_client_that_reads_slowly_is_not_aborted(impatient: uvicorn.Server) -> None:
    reader, writer = await asyncio.open_connection(*_address(impatient))
    began = time.monotonic()
    writer.write(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert await _read(reader, pause=0.01) > 50_000_000
    assert time.monotonic() - began > 2 * connection_timers.CLIENT_READ_TIMEOUT_SECONDS
    writer.close()


@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n"])
async def test_a_closing_connection_is_aborted_if_the_client_does_not_read(
    monkeypatch: pytest.MonkeyPatch, header: bytes
) -> None:
    """The connection closes with any part of the response unread."""
    monkeypatch.setattr(connection_timers, "CLIENT_READ_TIMEOUT_SECONDS", 0.5)

    async def sized(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * int(scope["path"][1:]))(scope, receive, send)

    async with _serving(sized, timeout_keep_alive=1) as server, AsyncExitStack() as opened:
        sizes = range(20_000, 5_000_000, 40_000)
        for size in sizes:
            connection = opened.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(_address(server))
            connection.sendall(b"GET /%d HTTP/1.1\r\nHost: t\r\n%s\r\n" % (size, header))
        await until(lambda: server.server_state.total_requests == len(sizes))
        await until(lambda: not server.server_state.connections)


async def test_pipelined_requests_wait_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request of a connection is handled at a time, and the others together are bounded."""
    asked: list[str] = []
    first = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        if scope["path"] == "/first":
            await first.wait()
        await Response()(scope, receive, send)

    def request(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode()

    async with _serving(slow) as server:
        bounds = slow.connections  # type: ignore[attr-defined]
        reader, writer = await asyncio.open_connection(*_address(server))
        writer.write(request("/first") + b"".join(request(f"/{n}") for n in range(500)))
        await until(lambda: bounds.waiting_bytes)
        assert asked == ["/first"]
        monkeypatch.setattr(connections, "MAX_WAITING_BYTES", bounds.waiting_bytes)
        monkeypatch.setattr(protocol, "MAX_WAITING_BYTES", bounds.waiting_bytes)
        other_reader, other_writer = await asyncio.open_connection(*_address(server))
        other_writer.write(request("/other") * 5)
        assert re.findall(rb"HTTP/1.1 (\d+)", await other_reader.read()) == [b"200", b"503"]
        first.set()
        writer.write_eof()
        statuses = re.findall(rb"HTTP/1.1 (\d+)", await reader.read())
        assert statuses == [b"200"] * 501
        assert [path for path in asked if path != "/other"] == [
            "/first",
            *(f"/{n}" for n in range(500)),
        ]
        assert bounds.waiting_bytes == 0
        for one in (writer, other_writer):
            one.close()


@pytest.mark.parametrize("bound", ["max_total", "max_per_client"])
async def test_idle_connections_make_room_for_others(bound: str) -> None:
    async def simple(scope: Scope, receive: Receive, send: Send) -> None:
        await Response()(scope, receive, send)

    async with _serving(simple) as server, AsyncExitStack() as opened:
        bounds = simple.connections  # type: ignore[attr-defined]
        setattr(bounds, bound, 3)
        streams = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*_address(server))
            opened.callback(writer.close)
            streams.append((reader, writer))
            writer.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            assert b"200" in await reader.readuntil(b"\r\n\r\n")
        for reader, _ in streams[:2]:
            assert await reader.read() == b""
        for reader, writer in streams[2:]:
            writer.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            assert b"200" in await reader.readuntil(b"\r\n\r\n")


async def test_trusted_proxies_may_have_many_connections() -> None:
    async def simple(scope: Scope, receive: Receive, send: Send) -> None:
        await Response()(scope, receive, send)

    async with _serving(simple, proxies=["127.0.0.0/8"]) as server, AsyncExitStack() as opened:
        simple.connections.max_per_client = 1  # type: ignore[attr-defined]
        streams = [await asyncio.open_connection(*_address(server)) for _ in range(3)]
        for reader, writer in streams:
            opened.callback(writer.close)
            writer.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            assert b"200" in await reader.readuntil(b"\r\n\r\n")


def test_connections_inherit_the_bounds_of_unread_data() -> None:
    options = {
        socket.TCP_USER_TIMEOUT: connection_timers.CLIENT_READ_TIMEOUT_SECONDS * 1000,
        socket.TCP_NOTSENT_LOWAT: UNSENT_BYTES,
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bound_unread_data(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            for option, value in options.items():
                assert accepted.getsockopt(socket.IPPROTO_TCP, option) == value


async def test_unread_responses_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_UNREAD_BYTES", 100_000_000)

    async def much(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * 50_000_000)(scope, receive, send)

    async with _serving(much) as server, AsyncExitStack() as opened:
        streams = []
        for count in range(1, 5):
            reader, writer = await asyncio.open_connection(*_address(server), limit=1000)
            opened.callback(writer.close)
            streams.append(reader)
            writer.write(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            await until(partial(_has_answered, server, count))
        received = [await _read(reader) > 50_000_000 for reader in streams]
        assert received[0] is False
        assert received[-1] is True


def _has_answered(server: uvicorn.Server, count: int) -> bool:
    return server.server_state.total_requests == count


@pytest.mark.parametrize(
    "first",
    [
        b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\n\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\nHost: trailer\r\n\r\n",
        b"Content-Length: 4\r\n\r\nbody",
    ],
)
@pytest.mark.parametrize("split", [0, 1, 7])
def test_pipelined_responses_are_in_order(
    address: tuple[str, int], first: bytes, split: int
) -> None:
    """After a request with a body, or with an upgrade that is ignored, in one packet or several."""
    packages = [b"requests", b"numpy", b"pandas"]
    sent = b"".join(
        RECENT.replace(b"requests", name) + (first if name == b"requests" else b"\r\n")
        for name in packages
    )
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), split or len(sent)):
            connection.sendall(sent[start : start + (split or len(sent))])
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert re.findall(rb'"package":"(\w+)"', received) == packages
    assert received.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"Content-Length: 4\r\n\r\n\r\nxx",
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("is_long", [False, True])
async def test_a_blank_line_in_two_packets_or_pieces(body: bytes, cut: int, is_long: bool) -> None:
    async def simple(scope: Scope, receive: Receive, send: Send) -> None:
        await Response()(scope, receive, send)

    async with _serving(simple) as server:
        reader, writer = await asyncio.open_connection(*_address(server))
        await until(lambda: server.server_state.connections)
        (connection,) = server.server_state.connections
        start = b"GET / HTTP/1.1\r\nHost: t\r\nX: "
        request = start + b"\r\n" + body
        if is_long:
            # A piece ends within the blank line, and the packet does not.
            noise = b"x" * (PIECE_BYTES + cut - len(request))
            connection.data_received((start + noise + b"\r\n" + body) * 2)
        else:
            end = len(request) - cut
            connection.data_received(request[:end])
            connection.data_received(request[end:] + request)
        writer.write_eof()
        assert re.findall(rb"HTTP/1.1 (\d+)", await reader.read()) == [b"200", b"200"]
        writer.close()


def test_an_endless_later_head_is_refused(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(RECENT + b"\r\n")
        assert _answer(connection)[0].status == 200
        connection.sendall(RECENT + b"a:b\r\n" * ((MAX_INCOMPLETE_HEAD_BYTES) // 2))
        _assert_refused(connection, 431)


def test_refusals_are_counted(address: tuple[str, int]) -> None:
    host, port = address

    def refused() -> float:
        lines = get(f"http://{host}:{port}/metrics").text.splitlines()
        name = 'pypi_stats_requests_total{cache="none",route="none",status="400"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = refused()
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        _assert_refused(connection, 400)
    assert refused() == before + 1


def test_immediate_responses_are_in_order(address: tuple[str, int]) -> None:
    """Sent together, among others that are not at hand, and before a refusal."""
    known = RECENT + b"\r\n"
    health = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(known)
        body = _answer(connection)[1]
        for order in (known * 3, known + health, health + known, (health + known) * 50):
            connection.sendall(order)
            received = b""
            while len(re.findall(rb'"type":"recent|"ok"}', received)) < order.count(b"GET"):
                received += connection.recv(65536)
            expected = [body if b"recent" in head else b'{"status":"ok"}' for head in _heads(order)]
            answers = [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 ")[1:]]
            assert answers == expected
        connection.sendall(known.replace(b"GET", b"HEAD") + known)
        assert connection.recv(65536).count(b"content-length: %d\r\n" % len(body)) > 0
    for last in (b"nonsense\r\n\r\n", RECENT + b"Connection: close\r\n\r\n"):
        with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(known * 2 + last)
            received = b""
            while more := connection.recv(65536):
                received += more
        statuses = [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"200", b"200", b"400" if b"nonsense" in last else b"200"]


def _heads(requests: bytes) -> list[bytes]:
    return requests.split(b"\r\n\r\n")[:-1]


def test_writing_pauses_for_a_client_that_does_not_read(address: tuple[str, int]) -> None:
    """Many requests in one piece, each for a body that is much larger than it."""
    request = RECENT.replace(b"recent", b"python_minor") + b"\r\n"
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(request)
        body = _answer(connection)[1]
        connection.sendall(request * 500)
        received = 0
        while received < 500 * len(body):
            received += len(connection.recv(1_000_000))


class _Unequal:
    """An app whose dispatcher has one response at hand. The others wait for `may_answer`."""

    def __init__(self) -> None:
        self.dispatcher = self
        self.may_answer = asyncio.Event()

    def incoming(self, _: str, target: bytes, *__: object) -> bytes:
        return target

    def respond_at_once(self, target: bytes) -> int | None:
        return 204 if target == b"/known" else None

    def render(self, *_: object) -> tuple[bytes, bytes]:
        return b"HTTP/1.1 204 No Content\r\n\r\n", b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.may_answer.wait()
        await Response(status_code=200)(scope, receive, send)


async def test_a_connection_stays_open_for_a_slow_response_after_an_immediate_one() -> None:
    app = _Unequal()
    async with _serving(app) as server:
        reader, writer = await asyncio.open_connection(*_address(server))
        await until(lambda: server.server_state.connections)
        (connection,) = server.server_state.connections
        assert isinstance(connection, BoundedHTTPProtocol)
        connection.timeout_keep_alive = 1
        writer.write(b"GET /known HTTP/1.1\r\nHost: t\r\n\r\nGET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await reader.readline() == b"HTTP/1.1 204 No Content\r\n"
            # The time of an idle connection is over, but this one is not idle.
            connection.active_at -= 60
            connection._idle_timer.check()
            app.may_answer.set()
            await reader.readline()
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            while await reader.read(65536):
                pass
        writer.close()


class _Broken:
    """An app whose dispatcher fails in what takes no task."""

    def __init__(self) -> None:
        self.dispatcher = self

    def incoming(self, *_: object) -> bytes:
        raise KeyError("defect")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"the usual way")(scope, receive, send)


async def test_an_exception_before_the_task_is_logged_and_the_task_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with _serving(_Broken()) as server, httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        host, port = _address(server)
        response = await client.get(f"http://{host}:{port}/")
    assert (response.status_code, response.content) == (200, b"the usual way")
    (record,) = (record for record in caplog.records if record.exc_info)
    assert record.getMessage() == "a request could not be answered at once"
    assert "KeyError: 'defect'" in caplog.text
