"""The protocol gets responses that need no waiting from the dispatcher, without a task."""

from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Receive, Scope, Send

from app.api.endpoints import MAX_PARSED_URL_BYTES, Endpoints
from app.domain.clock import Clock, utc_now
from app.logs import request_id
from app.main import Service, create_app
from app.serving.dispatch import REQUEST
from app.settings import Settings
from tests.days import days_ago, downloads, publish
from tests.processes import free_port
from tests.waiting import until_known

PEER = ("127.0.0.1", 123)

RECENT = "/api/packages/long/recent"

PLAIN = {"accept-encoding": "identity"}


@pytest.fixture
def settings() -> Settings:
    return Settings(rate_limits="100/hour")


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still, after every publish of the test."""
    now = utc_now() + timedelta(minutes=5)
    return lambda: now


@pytest.fixture
def client(client: httpx.AsyncClient) -> httpx.AsyncClient:
    client.headers.update(PLAIN)
    return client


@pytest.fixture
async def _known_package(app: Service, engine: AsyncEngine) -> None:
    """A package with one response that is worth compressing."""
    minors = {f"3.{minor}": 1000 + minor for minor in range(20)}
    await publish(engine, days_ago(0), downloads("long", minors))
    await until_known(app)


pytestmark = pytest.mark.usefixtures("_known_package")


def _respond_at_once(
    app: Service,
    target: str = RECENT,
    *,
    method: str = "GET",
    headers: list[tuple[str, str]] | None = None,
    peer: tuple[str, int] = PEER,
) -> httpx.Response | None:
    """Ask as the protocol does. Return the response that it would write, or None."""
    # The client of the tests leaves the id of its last request in the context.
    request_id.set("")
    raw = [(name.encode(), value.encode()) for name, value in headers or []]
    request = app.dispatcher.incoming(method, target.encode(), raw, peer[0], "")
    response = app.dispatcher.respond_at_once(request)
    if response is None:
        return None
    head, body = app.dispatcher.render(request, response, [(b"date", b"today")])
    status_line, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    parsed = httpx.Response(int(status_line.split()[1]), content=body)
    # Set afterwards: httpx would decompress the body of a new response.
    parsed.headers = httpx.Headers(
        [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    )
    return parsed


async def _respond(
    client: httpx.AsyncClient, target: str, method: str, headers: list[tuple[str, str]]
) -> httpx.Response:
    async with client.stream(method, target, headers=headers) as response:
        body = b"".join([chunk async for chunk in response.aiter_raw()])
    whole = httpx.Response(response.status_code, content=body)
    whole.headers = response.headers
    return whole


@pytest.mark.parametrize("encoding", ["identity", "gzip", "gzip, br, zstd"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_protocol_and_asgi_send_the_same_response(
    app: Service,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
    method: str,
) -> None:
    queued: list[tuple[Any, ...]] = []
    monkeypatch.setattr(app.dispatcher.log, "_queued", queued)
    monkeypatch.setattr(app.dispatcher.log, "flush", lambda: None)
    headers = [("accept-encoding", encoding), ("x-request-id", "given")]
    for target in (
        RECENT,
        "/api/packages/LONG/python_minor?&version=&nonce=1",
        "/api/bulk/recent?package=Long",
        f"{RECENT}?period=year",
        "/api/packages/-/recent",
    ):
        tag = (await client.get(target, headers=headers)).headers.get("etag")
        queued.clear()
        ranges = [("range", f"bytes={positions}") for positions in ("0-9", "99999-")]
        for more in (
            [],
            *([one] for one in (("if-none-match", f'"other", W/{tag}'), *ranges) if tag),
        ):
            asked = [*headers, *more]
            usual = await _respond(client, target, method, asked)
            at_once = _respond_at_once(app, target, method=method, headers=asked)
            assert at_once is not None
            assert at_once.status_code == usual.status_code
            assert at_once.content == usual.content
            if usual.status_code == 304:
                assert "x-ratelimit-remaining" not in usual.headers
            else:
                counts = [one.headers.pop("x-ratelimit-remaining") for one in (usual, at_once)]
                assert int(counts[0]) - int(counts[1]) == 1
                resets = [int(one.headers.pop("x-ratelimit-reset")) for one in (usual, at_once)]
                assert resets[0] >= resets[1]
            assert at_once.headers.pop("date") == "today"
            assert dict(at_once.headers) == dict(usual.headers)
            lines = [app.dispatcher.log._line(request, 1.0, time) for request, _, time in queued]
            assert lines[0] == lines[1]
            queued.clear()


async def test_responses_that_need_waiting(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    assert _respond_at_once(app) is None
    response = await client.get(RECENT)
    assert _respond_at_once(app) is not None
    for target in (
        f"{RECENT}?period=week",
        "/api/packages/unknown/recent",
        "/api/status",
        "/",
        "*",
    ):
        assert _respond_at_once(app, target) is None, target
    for method in ("POST", "OPTIONS", "get"):
        assert _respond_at_once(app, method=method) is None, method
    for target in ("/api/packages/lon%67/recent", f"{RECENT}?n={'x' * MAX_PARSED_URL_BYTES}"):
        assert _respond_at_once(app, target) is not None, target
    date = response.headers["last-modified"]
    for headers, status in (
        ([("if-none-match", "*")], 304),
        ([("if-none-match", "")], 200),
        ([("if-modified-since", date)], 304),
        ([("if-modified-since", format_datetime(utc_now() + timedelta(days=1), usegmt=True))], 200),
        # A tag takes precedence over a date.
        ([("if-none-match", '"other"'), ("if-modified-since", date)], 200),
    ):
        at_once = _respond_at_once(app, headers=headers)
        assert at_once is not None
        assert at_once.status_code == status, headers
    version = await until_known(app)
    await publish(engine, days_ago(0), downloads("long", 7))
    await until_known(app, version)
    assert _respond_at_once(app) is None
    await client.get(RECENT)
    assert _respond_at_once(app) is not None
    app.dispatcher.publication_watch.publication = None
    assert _respond_at_once(app) is None


@pytest.mark.parametrize("settings", [Settings(rate_limits="5/hour")])
async def test_a_request_is_counted_once(app: Service) -> None:
    async def as_served(scope: Scope, receive: Receive, send: Send) -> None:
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        scope[REQUEST] = app.dispatcher.incoming("GET", target, scope["headers"], PEER[0], "")
        app.dispatcher.respond_at_once(scope[REQUEST])
        # The server passes the same scope on.
        await app(scope, receive, send)

    transport = httpx.ASGITransport(as_served)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        shown = []
        for path in (
            RECENT,
            "/api/nothing",
            "/api/status",
            f"{RECENT}?period=year",
            "/health",
            "/api",
            f"{RECENT}?period=day",
            "/api/top",
        ):
            answer = await client.get(path)
            shown.append((answer.status_code, answer.headers.get("x-ratelimit-remaining")))
    assert shown == [
        *[(200, "4"), (404, "3"), (200, "2"), (422, "1"), (200, None), (307, "0")],
        *[(429, "0"), (429, "0")],
    ]


@pytest.mark.parametrize("settings", [Settings(rate_limits="1/hour")])
async def test_a_request_beyond_the_limit_is_not_parsed(
    app: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[object] = []
    monkeypatch.setattr(Endpoints, "parse", lambda *asked: parsed.append(asked))
    responses = [_respond_at_once(app, f"{RECENT}?{'a&' * 1000}") for _ in range(5)]
    assert len(parsed) == 1
    assert [one.status_code for one in responses if one] == [429] * 4


@pytest.mark.parametrize("settings", [Settings(rate_limits="1/hour")])
async def test_preflights_are_not_counted(app: Service) -> None:
    headers = [("access-control-request-method", "GET")]
    for _ in range(3):
        response = _respond_at_once(app, method="OPTIONS", headers=headers)
        assert response is not None
        assert response.status_code == 204
        assert response.headers["access-control-allow-headers"] == "*, Authorization"


async def test_trusted_proxies_name_the_client(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(rate_limits="9/hour", trusted_proxies=("127.0.0.1", "10.0.0.0/8"))
    app = create_app(settings, database_url)
    queued: list[tuple[Any, ...]] = []
    monkeypatch.setattr(app.dispatcher.log, "_queued", queued)
    monkeypatch.setattr(app.dispatcher.log, "flush", lambda: None)
    transport = httpx.ASGITransport(app)
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test", headers=PLAIN) as client,
    ):
        # Repeated headers are one list.
        repeated = [("x-forwarded-for", one) for one in ("203.0.113.2", "203.0.113.1, 10.1.1.1")]
        await client.get(RECENT, headers=repeated)
        for peer, forwarded in (
            ("127.0.0.1", "203.0.113.1"),
            ("127.0.0.1", "198.51.100.9, 203.0.113.1, 10.1.1.1"),
            ("127.0.0.1", "203.0.113.2:4711"),
            ("127.0.0.1", "made up"),
            ("192.0.2.1", "203.0.113.1"),
        ):
            headers = [("x-forwarded-for", forwarded)]
            assert _respond_at_once(app, headers=headers, peer=(peer, 1)) is not None
    shown = [request.client for request, *_ in queued]
    assert shown == ["203.0.113.1"] * 3 + ["203.0.113.2", "127.0.0.1", "192.0.2.1"]


async def test_the_dispatcher_waits_for_shared_limits(database_url: str) -> None:
    uri = SecretStr(f"redis://127.0.0.1:{free_port()}/0")
    app = create_app(Settings(rate_limits="9/hour", rate_limit_storage_uri=uri), database_url)
    transport = httpx.ASGITransport(app)
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test", headers=PLAIN) as client,
    ):
        assert _respond_at_once(app) is None
        await client.get(RECENT)
        # The storage is away, so the process counts by itself.
        assert _respond_at_once(app) is not None
