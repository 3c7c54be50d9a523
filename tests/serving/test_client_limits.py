"""Requests that do not count, and clients with limits of their own."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.client_limits import parse_client_limits
from app.main import Service, create_app
from app.settings import Settings
from tests.days import days_ago, downloads, publish
from tests.waiting import until_known

KEY = "correct horse"
UNLIMITED_KEY = "battery staple"
CLIENTS = (
    f"127.0.0.0/8=7/hour, 127.0.0.1/32=5/hour,key:{sha256(KEY.encode()).hexdigest()}=3/hour;9/day,"
    f"key:{sha256(UNLIMITED_KEY.encode()).hexdigest().upper()}=none"
)
PACKAGES = [f"package-{number}" for number in range(16)]
RECENT = "/api/packages/package-0/recent"


@pytest.fixture(params=["own", "shared"])
def storage_uri(request: pytest.FixtureRequest) -> SecretStr | None:
    """Each process counts by itself, or all count together in Redis."""
    if request.param == "own":
        return None
    port, client = request.getfixturevalue("redis_server")
    client.flushall()
    return SecretStr(f"redis://127.0.0.1:{port}/0")


@asynccontextmanager
async def _served(
    database_url: str, engine: AsyncEngine, settings: Settings
) -> AsyncIterator[httpx.AsyncClient]:
    await publish(engine, days_ago(0), *(downloads(name, 1) for name in PACKAGES))
    app = create_app(settings, database_url)
    transport = httpx.ASGITransport(app)
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await until_known(app)
        yield client


async def _left(client: httpx.AsyncClient, **headers: str) -> tuple[int, str | None]:
    response = await client.get(RECENT, headers={k.replace("_", "-"): headers[k] for k in headers})
    return response.status_code, response.headers.get("x-ratelimit-remaining")


@pytest.mark.parametrize("settings", [Settings()])
async def test_sixteen_badges_of_one_page(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    """The default limits allow them, computed and stored, and again with conditions."""
    await publish(engine, days_ago(0), *(downloads(name, 1) for name in PACKAGES))
    await until_known(app)
    paths = [f"/api/badges/{name}/month" for name in PACKAGES]
    computed = [await client.get(path) for path in paths]
    assert {response.status_code for response in computed} == {200}
    assert computed[-1].headers["x-ratelimit-remaining"] == "284"
    for _ in range(30):
        for path, first in zip(paths, computed, strict=True):
            stored = await client.get(path)
            assert (stored.status_code, stored.content) == (200, first.content)
            assert "x-ratelimit-limit" not in stored.headers
    tag = (await client.get(RECENT)).headers["etag"]
    for _ in range(400):
        response = await client.get(RECENT, headers={"If-None-Match": tag})
        assert response.status_code == 304
        assert "x-ratelimit-limit" not in response.headers


async def test_only_a_304_makes_a_conditional_request_free(
    database_url: str, engine: AsyncEngine, storage_uri: SecretStr | None
) -> None:
    settings = Settings(rate_limits="7/hour", rate_limit_storage_uri=storage_uri)
    async with _served(database_url, engine, settings) as client:
        first = await client.get(RECENT)
        assert first.headers["x-ratelimit-remaining"] == "6"
        other = {"If-None-Match": '"other"'}
        conditions = (
            ("GET", RECENT, other, 200),
            ("HEAD", RECENT, other, 200),
            ("GET", RECENT, {"If-Modified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"}, 200),
            ("GET", RECENT, {**other, "Range": "bytes=0-9"}, 206),
            ("GET", RECENT, {**other, "Range": "bytes=9999-"}, 416),
            ("GET", f"{RECENT}?period=year", other, 422),
            ("GET", RECENT, other, 429),
        )
        for left, (method, path, headers, status) in zip("5432100", conditions, strict=True):
            response = await client.request(method, path, headers=headers)
            assert response.status_code == status
            assert response.headers["x-ratelimit-remaining"] == left
        # A client without any requests left can still revalidate what it has.
        unchanged = await client.get(RECENT, headers={"If-None-Match": first.headers["etag"]})
        assert unchanged.status_code == 304
        assert "x-ratelimit-remaining" not in unchanged.headers


@pytest.mark.parametrize("settings", [Settings(rate_limits="40/hour")])
async def test_a_request_for_many_packages_counts_more_than_once(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await publish(engine, days_ago(0), *(downloads(name, 1) for name in PACKAGES))
    await until_known(app)
    left = []
    for count, argument in ((1, "package"), (10, "package"), (11, "p%61ckage"), (100, "package")):
        query = "&".join(f"{argument}=package-{number}" for number in range(count))
        response = await client.get(f"/api/bulk/recent?{query}")
        assert response.status_code == 200
        left.append(int(response.headers["x-ratelimit-remaining"]))
    assert left == [39, 38, 36, 26]
    for count, comma in ((10, ","), (11, "%2C"), (40, "%2c")):
        names = comma.join(f"package-{number}" for number in range(count))
        response = await client.get(f"/api/bulk/recent?package={names}")
        left.append(int(response.headers["x-ratelimit-remaining"]))
    assert left[4:] == [25, 23, 19]


async def test_known_clients(
    database_url: str,
    engine: AsyncEngine,
    storage_uri: SecretStr | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(
        rate_limits="2/hour",
        client_rate_limits=SecretStr(CLIENTS),
        rate_limit_storage_uri=storage_uri,
        trusted_proxies=("127.0.0.0/8",),
    )
    async with _served(database_url, engine, settings) as client:
        # The smallest network counts, also behind a trusted proxy; others have the usual limits.
        assert await _left(client) == (200, "4")
        assert await _left(client, x_forwarded_for="127.0.0.2") == (200, "6")
        assert await _left(client, x_forwarded_for="203.0.113.1") == (200, "1")
        # A key has one budget at all addresses, however it is sent.
        assert await _left(client, x_api_key=KEY) == (200, "2")
        headers = {"authorization": f"bearer  {KEY}", "x_forwarded_for": "203.0.113.1"}
        assert await _left(client, **headers) == (200, "1")
        assert await _left(client, authorization="Basic abc") == (200, "3")
        for _ in range(5):
            assert await _left(client, x_api_key=UNLIMITED_KEY) == (200, None)
        # A wrong key is refused, and counts for the address.
        for left in "10":
            wrong = {"x_api_key": f"{KEY}!", "x_forwarded_for": "203.0.113.2"}
            assert await _left(client, **wrong) == (401, left)
        assert await _left(client, **wrong) == (429, "0")
        assert (await client.get("/health", headers={"X-API-Key": "wrong"})).status_code == 200
    assert KEY not in caplog.text


async def test_headers_of_responses_to_keys(database_url: str, engine: AsyncEngine) -> None:
    """Shared caches store no response with a key's limits, and one response for everybody else."""
    settings = Settings(client_rate_limits=SecretStr(CLIENTS))
    async with _served(database_url, engine, settings) as client:
        for path in (RECENT, "/api/events", RECENT):
            key = {"Authorization": f"Bearer {UNLIMITED_KEY}"}
            public, private = [
                (await client.get(path, headers=headers)).headers for headers in ({}, key)
            ]
            assert public["cache-control"].startswith("public, max-age=")
            assert private["cache-control"] == public["cache-control"].replace("public", "private")
            assert public.get("vary") == private.get("vary")
            assert "authorization" not in public.get("vary", "").lower()
        wrong = await client.get(RECENT, headers={"X-API-Key": "wrong"})
        assert wrong.status_code == 401
        assert wrong.headers["www-authenticate"] == "Bearer"
        assert wrong.headers["cache-control"] == "no-cache"
        problem = json.loads(wrong.content)
        assert (problem["status"], problem["title"]) == (401, "Unauthorized")


async def test_without_keys_in_the_settings_keys_are_ignored(
    database_url: str, engine: AsyncEngine
) -> None:
    """Other software between client and service may add a token of its own."""
    async with _served(database_url, engine, Settings(rate_limits="2/hour")) as client:
        assert await _left(client, authorization="Bearer other") == (200, "1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "key:secret=none",
        "127.0.0.1",
        "10.0.0.1.1/8=none",
        "::1=",
        "::1=0/hour",
        "a=,",
    ],
)
def test_invalid_clients(text: str) -> None:
    with pytest.raises(ValueError, match=r"should look like .*entry \d does not") as raised:
        list(parse_client_limits(text))
    assert "secret" not in str(raised.value)
