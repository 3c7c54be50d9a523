"""What was answered before is answered the short way, as the middlewares would answer it."""

from email.utils import formatdate

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Receive, Scope, Send

from app.api import limit_storage
from app.api.fast_path import FastPath
from app.api.questions import LONGEST_KNOWN_SPELLING
from app.clock import Clock, utc_now
from app.logs import RequestLine
from app.main import Service, create_app
from app.settings import Settings
from tests.days import days_ago, downloads, publish
from tests.processes import free_port
from tests.waiting import until_known

PEER = ("127.0.0.1", 123)
"""Of httpx's transport, too."""

RECENT = "/api/packages/long/recent"

TARGETS = (
    RECENT,
    f"{RECENT}?period=day",
    "/api/packages/long/python_minor",
    # Spelled otherwise.
    "/api/packages/LONG/recent?&period=day&nonce=1",
    f"{RECENT}?",
    "/api/packages/recent?package=Long&package=long",
    "/api/packages/long/overall?start_date=2005-01-01&format=json",
    "/api/top?limit=100",
)

CSV = ("/api/packages/long/system?os=linux", [("accept", "text/csv")])
"""Asked for by a header, which changes nothing of what has one format."""

ASKED = [*((target, []) for target in TARGETS), CSV, (RECENT, [("accept", "text/csv")])]

PLAIN = {"accept-encoding": "identity"}

OWN_HEADERS = ("date", "x-request-id", "x-ratelimit-remaining")
"""Whose values are other ones in each answer."""


@pytest.fixture
def settings() -> Settings:
    return Settings(rate_limits="100/hour")


@pytest.fixture
def clock() -> Clock:
    """It stands still: `Cache-Control` has the seconds that are left."""
    now = utc_now()
    return lambda: now


@pytest.fixture
def client(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """It says no more than it has to."""
    client.headers.update(PLAIN)
    return client


@pytest.fixture
async def _known_package(app: FastAPI, engine: AsyncEngine) -> None:
    """Of it one answer is worth compressing."""
    minors = {f"3.{minor}": 1000 + minor for minor in range(20)}
    await publish(engine, days_ago(0), downloads("long", minors))
    await until_known(app)


pytestmark = pytest.mark.usefixtures("_known_package")


def _ask(
    path: FastPath,
    target: str = RECENT,
    *,
    method: str = "GET",
    headers: list[tuple[str, str]] | None = None,
    peer: tuple[str, int] = PEER,
) -> httpx.Response | None:
    raw = [(name.encode(), value.encode()) for name, value in headers or []]
    scope = {"type": "http", "headers": raw, "client": peer}
    answer = path.answer(scope, method, target.encode(), [(b"date", b"today")])
    if answer is None:
        return None
    head, body = answer
    status_line, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    response = httpx.Response(int(status_line.split()[1]), content=body)
    # Set afterwards: a new answer would take its body apart.
    response.headers = httpx.Headers(
        [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    )
    return response


async def _ask_middlewares(
    client: httpx.AsyncClient, target: str, method: str, headers: list[tuple[str, str]]
) -> httpx.Response:
    async with client.stream(method, target, headers=headers) as response:
        body = b"".join([chunk async for chunk in response.aiter_raw()])
    whole = httpx.Response(response.status_code, content=body)
    whole.headers = response.headers
    return whole


def _figures() -> dict[tuple[object, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        # How long it took is another time each time.
        if sample.name.startswith("pypi_stats_") and sample.name.endswith(("_total", "_count"))
    }


@pytest.mark.parametrize(("target", "accept"), ASKED)
@pytest.mark.parametrize("accept_encoding", ["identity", "gzip", "gzip, deflate, br, zstd"])
@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_it_answers_as_the_middlewares_do(
    app: Service,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    accept: list[tuple[str, str]],
    accept_encoding: str,
    is_known: bool,
    method: str,
) -> None:
    """With the same bytes, headers, figures, and line in the log."""
    # `X-RateLimit-Reset` as well is of one moment.
    monkeypatch.setattr(limit_storage, "monotonic", lambda: 1000.0)
    lines: list[RequestLine] = []
    headers = [("accept-encoding", accept_encoding), *accept]
    tag = (await client.get(target, headers=headers)).headers["etag"]
    if is_known:
        headers.append(("if-none-match", tag if method == "GET" else f"W/{tag}"))
    monkeypatch.setattr(app.fast_path._log, "_write_line", lines.append)
    figures = [_figures()]
    usual = await _ask_middlewares(client, target, method, headers)
    figures.append(_figures())
    short = _ask(app.fast_path, target, method=method, headers=headers)
    figures.append(_figures())

    assert short is not None
    assert short.status_code == usual.status_code == (304 if is_known else 200)
    assert short.content == usual.content
    assert set(short.headers) == {*usual.headers, "date"}
    assert len(short.headers.raw) == len(short.headers)
    for name in set(usual.headers) - set(OWN_HEADERS):
        assert short.headers[name] == usual.headers[name], name
    assert short.headers["x-request-id"] != usual.headers["x-request-id"]
    left = [int(answer.headers["x-ratelimit-remaining"]) for answer in (usual, short)]
    assert left[0] - left[1] == 1
    at_first, between, at_last = figures
    assert {key: at_last[key] - between[key] for key in at_last} == {
        key: between[key] - at_first.get(key, 0) for key in between
    }
    assert [line.request_id for line in lines] == [
        answer.headers["x-request-id"] for answer in (usual, short)
    ]
    assert lines[0]._replace(ms=0, request_id="") == lines[1]._replace(ms=0, request_id="")


async def test_what_is_not_kept_or_unusual_is_for_the_middlewares(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    assert _ask(app.fast_path) is None
    tag = (await client.get(RECENT)).headers["etag"]
    assert _ask(app.fast_path) is not None
    given_id = _ask(app.fast_path, headers=[("x-request-id", "given")])
    assert given_id is not None
    assert given_id.headers["x-request-id"] == "given"
    # This one is kept too.
    await client.get(f"{RECENT}?period=day")
    assert _ask(app.fast_path, f"{RECENT}?nonce=1&period=day") is not None
    for target in (
        f"{RECENT}?period=week",
        f"{RECENT}?period=year",
        f"{RECENT}?period=day&period=week",
        # What follows a # is not sent by anybody, and left out by the server.
        f"{RECENT}?nonce=1#&period=day",
        f"{RECENT}?nonce={'x' * LONGEST_KNOWN_SPELLING}",
        "/api/packages/lon%67/recent",
        "/api/packages/long\u00df/recent",
        "/api/packages/unknown/recent",
        "/api/status",
        "/",
        "*",
    ):
        assert _ask(app.fast_path, target) is None, target
    for method in ("POST", "OPTIONS", "get"):
        assert _ask(app.fast_path, method=method) is None, method
    for headers in (
        [("if-none-match", '"other"')],
        [("if-none-match", f'"other", {tag}')],
        [("if-none-match", "*")],
        [("if-none-match", "")],
        [("if-modified-since", formatdate(usegmt=True))],
        [("accept-encoding", "identity"), ("accept-encoding", "identity")],
    ):
        assert _ask(app.fast_path, headers=headers) is None, headers
    # A tag goes before a date.
    both = [("if-none-match", tag), ("if-modified-since", "yesterday")]
    answer = _ask(app.fast_path, headers=both)
    assert answer is not None
    assert answer.status_code == 304
    version = await until_known(app)
    await publish(engine, days_ago(0), downloads("long", 7))
    await until_known(app, version)
    assert _ask(app.fast_path) is None
    await client.get(RECENT)
    assert _ask(app.fast_path) is not None
    app.state.freshness.publication = None
    assert _ask(app.fast_path) is None


@pytest.mark.parametrize("settings", [Settings(rate_limits="4/hour")])
async def test_a_request_is_counted_once(app: Service, client: httpx.AsyncClient) -> None:
    await client.get(RECENT)
    left = [answer and answer.headers["x-ratelimit-remaining"] for answer in _thrice(app)]
    assert left == ["2", "1", "0"]
    assert (await client.get(RECENT)).status_code == 429
    assert _ask(app.fast_path, peer=("192.0.2.1", 1)) is not None


@pytest.mark.parametrize("settings", [Settings(rate_limits="5/hour")])
async def test_a_request_that_is_passed_on_is_counted_once(app: Service) -> None:
    async def as_served(scope: Scope, receive: Receive, send: Send) -> None:
        target = scope["raw_path"] + b"?" + scope["query_string"]
        assert app.fast_path.answer(scope, scope["method"], target, []) is None
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
        ):
            answer = await client.get(path)
            shown.append((answer.status_code, answer.headers.get("x-ratelimit-remaining")))
        assert shown == [(200, "4"), (404, "3"), (200, "2"), (422, "1"), (200, None), (404, None)]
        shown = [
            (answer.status_code, answer.headers["x-ratelimit-remaining"])
            for answer in [await client.head(f"{RECENT}?period=day"), await client.get("/api/top")]
        ]
    assert shown == [(200, "0"), (429, "0")]


@pytest.mark.parametrize("settings", [Settings(rate_limits="1/hour")])
async def test_what_is_asked_beyond_the_limits_is_not_looked_at(
    app: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[object] = []
    monkeypatch.setattr(app.fast_path._endpoints, "asked", lambda *asked: looked_at.append(asked))
    for _ in range(5):
        assert _ask(app.fast_path, f"{RECENT}?{'a&' * 1000}") is None
    assert len(looked_at) == 1


def _thrice(app: Service) -> list[httpx.Response | None]:
    return [_ask(app.fast_path) for _ in range(3)]


async def test_trusted_proxies_say_who_the_client_is(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(rate_limits="9/hour", trusted_proxies=("127.0.0.1",))
    app = create_app(settings, database_url)
    lines: list[RequestLine] = []
    monkeypatch.setattr(app.fast_path._log, "_write_line", lines.append)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", headers=PLAIN) as client,
    ):
        await client.get(RECENT, headers={"x-forwarded-for": "203.0.113.1"})
        left = []
        for peer, forwarded in (
            ("127.0.0.1", "203.0.113.1"),
            ("127.0.0.1", "10.9.9.9, 203.0.113.1"),
            ("127.0.0.1", "203.0.113.2"),
            ("192.0.2.1", "203.0.113.1"),
        ):
            headers = [("x-forwarded-for", forwarded)]
            answer = _ask(app.fast_path, headers=headers, peer=(peer, 1))
            assert answer is not None
            left.append(answer.headers["x-ratelimit-remaining"])
    assert left == ["7", "6", "8", "8"]
    shown = [line.client for line in lines]
    assert shown == ["203.0.113.1"] * 3 + ["203.0.113.2", "192.0.2.1"]


async def test_limits_that_are_asked_of_another_server_are_for_the_middlewares(
    database_url: str,
) -> None:
    uri = SecretStr(f"redis://127.0.0.1:{free_port()}/0")
    app = create_app(Settings(rate_limits="9/hour", rate_limit_storage_uri=uri), database_url)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", headers=PLAIN) as client,
    ):
        assert _ask(app.fast_path) is None
        await client.get(RECENT)
        # It is away: each process counts for itself.
        assert _ask(app.fast_path) is not None
