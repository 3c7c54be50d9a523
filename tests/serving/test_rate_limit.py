"""Limits by client address, in one process and over several."""

import asyncio
import re
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic, time

import httpx
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr
from redis import Redis

from app.main import create_app
from app.serving import limit_storage, rate_limits, shared_counters
from app.serving.limit_storage import MAX_COUNTERS, BoundedMemoryStorage, counters_of
from app.serving.proxies import TrustedProxies, client_key
from app.serving.rate_limits import RateLimits, RateLimitState
from app.settings import Settings
from tests.clock import ManualClock
from tests.processes import free_port
from tests.waiting import until


@pytest.fixture
def settings() -> Settings:
    return Settings(rate_limits="10/hour;100/day")


async def test_all_paths_share_one_budget(client: httpx.AsyncClient, clock: ManualClock) -> None:
    requests = {
        ("GET", "/api/status"): 200,
        ("GET", "/api/packages/flask/recent"): 503,
        ("GET", "/api/nothing"): 404,
        ("GET", "/nothing"): 404,
        ("POST", "/api/status"): 405,
        ("GET", "/api/packages/flask/recent?period=year"): 422,
        ("GET", "/"): 200,
        ("GET", "/docs"): 200,
        ("HEAD", "/openapi.json"): 200,
        ("OPTIONS", "/health/"): 404,
    }
    answers = [await client.request(method, path) for method, path in requests]
    assert [answer.status_code for answer in answers] == list(requests.values())
    left = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers]
    assert left == list(range(9, -1, -1))
    assert answers[0].headers["x-ratelimit-limit"] == "10"
    for answer in answers:
        resets_in = int(answer.headers["x-ratelimit-reset"]) - clock().timestamp()
        assert 0 < resets_in <= 3601
    # Only what can be had later says when: here the 503 of a database without data.
    waits = [answer.headers.get("retry-after") for answer in answers]
    assert waits == [None, "300", *[None] * 8]

    limited = await client.get("/api/packages/numpy/system")
    assert limited.status_code == 429
    assert limited.headers["content-type"] == "application/problem+json"
    assert limited.json()["title"] == "Too Many Requests"
    assert "10 requests per hour" in limited.json()["detail"]
    assert 0 < int(limited.headers["retry-after"]) <= 3601
    assert limited.headers["x-ratelimit-remaining"] == "0"

    asset = re.findall(r"assets/[^\"]+\.js", answers[7].text)[0]
    for path in ("/health", "/ready", "/metrics", asset):
        response = await client.get(path)
        assert response.status_code == 200
        assert "x-ratelimit-limit" not in response.headers


class Stopwatch:
    """Monotonic time that stands still until a test moves it."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """The time by which requests are counted in this process."""
    stopwatch = Stopwatch()
    for module in (limit_storage, rate_limits):
        monkeypatch.setattr(module, "monotonic", stopwatch)
    return stopwatch


@pytest.mark.parametrize("settings", [Settings(rate_limits="4/hour;2/second")])
async def test_headers_describe_the_closest_limit(
    client: httpx.AsyncClient, stopwatch: Stopwatch
) -> None:
    shown = []
    waits = []
    for pause in (0, 0, 0, 1, 0, 0, 0):
        stopwatch.seconds += pause
        response = await client.get("/api/nothing")
        limit, remaining = (
            response.headers[f"x-ratelimit-{name}"] for name in ("limit", "remaining")
        )
        shown.append((limit, remaining, response.status_code))
        waits.append(int(response.headers.get("retry-after", 0)))
    assert shown == [
        ("2", "1", 404),
        ("2", "0", 404),
        ("2", "0", 429),
        # From here on the hour is as close, and lasts longer.
        ("4", "1", 404),
        ("4", "0", 404),
        ("4", "0", 429),
        ("4", "0", 429),
    ]
    # A client that waits as long as it is told is answered then.
    assert waits[2] == 1
    assert waits[5] > 3500


@pytest.mark.parametrize("settings", [Settings(rate_limits="")])
async def test_an_empty_setting_means_no_limit(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/nothing")
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "local"),
    ],
)
def test_addresses_of_one_client_count_together(host: str, client: str) -> None:
    assert client_key(host) == client
    assert client_key("") == "local"


# Proxies


TRUSTED = ("198.51.100.0/24", "192.0.2.1", "2001:db8::/32")


@pytest.mark.parametrize(
    ("trusted", "forwarded_for", "client"),
    [
        # A header of a peer that is not trusted changes nothing.
        ((), "10.1.1.1", "192.0.2.1"),
        (("198.51.100.0/24",), "10.1.1.1", "192.0.2.1"),
        (("198.51.100.0/24",), "198.51.100.1", "192.0.2.1"),
        # The right-most address that is not trusted is the client.
        (TRUSTED, "203.0.113.1", "203.0.113.1"),
        (TRUSTED, "10.9.9.9, 203.0.113.1", "203.0.113.1"),
        (TRUSTED, "203.0.113.2, 203.0.113.1, 198.51.100.7", "203.0.113.1"),
        (TRUSTED, "203.0.113.2,203.0.113.1, 198.51.100.7, 2001:db8::5", "203.0.113.1"),
        (TRUSTED, "203.0.113.1:4711", "203.0.113.1"),
        (TRUSTED, "[2001:db9::1]:4711", "2001:db9::1"),
        (TRUSTED, "::ffff:203.0.113.1, ::ffff:198.51.100.7", "203.0.113.1"),
        # A proxy that names no client is the client itself.
        (TRUSTED, None, "192.0.2.1"),
        (TRUSTED, "", "192.0.2.1"),
        (TRUSTED, "made up, 198.51.100.7", "198.51.100.7"),
        # A zone can be any text, so an address with one counts as the proxy.
        (TRUSTED, "fe80::1%eth0", "192.0.2.1"),
        (TRUSTED, "fe80::1%" + "x" * 15_000, "192.0.2.1"),
        (TRUSTED, "[fe80::1%25eth0]:4711, 198.51.100.7", "198.51.100.7"),
    ],
)
def test_clients_behind_proxies(
    trusted: tuple[str, ...], forwarded_for: str | None, client: str
) -> None:
    header = None if forwarded_for is None else forwarded_for.encode()
    assert TrustedProxies(trusted).client("192.0.2.1", header) == client


@pytest.mark.parametrize("settings", [Settings(rate_limits="2/minute")])
async def test_setting_the_clock_back_blocks_no_client(
    client: httpx.AsyncClient, clock: ManualClock, stopwatch: Stopwatch
) -> None:
    for left in ("1", "0"):
        answer = await client.get("/api/nothing")
        assert answer.headers["x-ratelimit-remaining"] == left
    clock.advance(hours=-1)
    limited = await client.get("/api/nothing")
    assert limited.status_code == 429
    assert limited.headers["retry-after"] == "60"
    assert 60 <= int(limited.headers["x-ratelimit-reset"]) - clock().timestamp() <= 61
    stopwatch.seconds += 60
    assert (await client.get("/api/nothing")).status_code == 404


# A storage that is shared


@pytest.fixture
def redis(redis_server: tuple[int, Redis]) -> tuple[int, Redis]:
    """The Redis server without any keys and statistics."""
    _, server = redis_server
    server.flushall()
    server.config_resetstat()
    return redis_server


@asynccontextmanager
async def _service(database_url: str, port: int) -> AsyncIterator[httpx.AsyncClient]:
    uri = SecretStr(f"redis://127.0.0.1:{port}/0")
    app = create_app(Settings(rate_limits="5/hour", rate_limit_storage_uri=uri), database_url)
    transport = httpx.ASGITransport(app)
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def _left(client: httpx.AsyncClient) -> tuple[int, str]:
    response = await client.get("/api/nothing")
    return response.status_code, response.headers["x-ratelimit-remaining"]


async def test_services_share_a_budget_through_redis(
    database_url: str, redis: tuple[int, Redis]
) -> None:
    port, _ = redis
    async with _service(database_url, port) as one, _service(database_url, port) as other:
        shown = [await _left(client) for client in (one, other, one, other, other, one)]
    assert shown == [(404, "4"), (404, "3"), (404, "2"), (404, "1"), (404, "0"), (429, "0")]


async def _count(limits: RateLimits, client: str, cost: int = 1) -> RateLimitState:
    state = await limits.count(counters_of(client, limits._items), cost)
    assert state
    return state


def _count_at_once(limits: RateLimits, client: str) -> RateLimitState:
    state = limits.count_at_once(counters_of(client, limits._items))
    assert state
    return state


@asynccontextmanager
async def _limits(rate_limits: str, port: int) -> AsyncIterator[RateLimits]:
    """With a Redis that is there, however long it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_counters, "SHARED_TIMEOUT_SECONDS", 30)
        for name in ("socket_timeout", "socket_connect_timeout"):
            patch.setitem(shared_counters.SHARED_OPTIONS, name, 30)
        shared = RateLimits(rate_limits, "", f"redis://127.0.0.1:{port}/0")
        try:
            yield shared
            assert shared.uses_shared_storage
        finally:
            shared.close()


async def test_concurrent_requests_are_counted_in_one_batch(
    redis: tuple[int, Redis],
) -> None:
    port, server = redis
    async with _limits("1000/hour;5000/day", port) as shared:
        clients = ["one", "another", "third"] * 100
        states = await asyncio.gather(*(_count(shared, client) for client in clients))
    for client in set(clients):
        left = [s.remaining for s, c in zip(states, clients, strict=True) if c == client]
        assert left == list(range(999, 899, -1))
    assert server.info("commandstats")["cmdstat_evalsha"]["calls"] < 10


@pytest.mark.parametrize(
    ("rate_limits", "counted"),
    # What a limit refuses does not count for those after it, used up or not.
    [("2/hour;3/day;9/month", [5, 2, 2]), ("2/hour;2/day", [5, 2]), ("4/hour;2/day", [5, 4])],
)
async def test_shared_and_local_counters_agree(
    redis: tuple[int, Redis], rate_limits: str, counted: list[int]
) -> None:
    port, server = redis
    async with _limits(rate_limits, port) as shared:
        for _ in range(5):
            told, own = await _count(shared, "one"), _count_at_once(shared, "one")
            assert told._replace(resets_in_seconds=0) == own._replace(resets_in_seconds=0)
            assert abs(told.resets_in_seconds - own.resets_in_seconds) < 60
        keys = [f"LIMITS:{key}" for _, key, *_ in counters_of("one", shared._items)]
        assert {key.decode() for key in server.scan_iter()} == set(keys)
        assert [int(server.get(key) or 0) for key in keys] == counted
        assert all(server.ttl(key) > 0 for key in keys)
        # That another client is refused beside them is nothing to these.
        both = await asyncio.gather(_count(shared, "one"), _count(shared, "another"))
        assert [state.exceeded for state in both] == [True, False]


async def test_setting_the_clock_of_redis_back_blocks_no_client(
    redis: tuple[int, Redis],
) -> None:
    """It then takes what is left of a key's time for an hour more."""
    port, server = redis
    async with _limits("2/minute", port) as shared:
        for _ in range(3):
            await _count(shared, "one")
        (key,) = server.scan_iter()
        server.pexpire(key, 3_600_000 + server.pttl(key))
        state = await _count(shared, "one")
        assert state.exceeded
        assert state.resets_in_seconds <= 60
        assert server.pttl(key) <= 60_000
        # A key that would last for ever is one as well.
        server.persist(key)
        assert (await _count(shared, "one")).resets_in_seconds <= 60
        assert 0 < server.pttl(key) <= 60_000


async def test_a_cancelled_request_does_not_affect_its_batch(
    redis: tuple[int, Redis],
) -> None:
    port, server = redis
    async with _limits("100/hour", port) as shared:
        await _count(shared, "first")
        # As one that was restarted, which knows no script and no counter.
        server.script_flush()
        server.flushall()
        counting = [asyncio.create_task(_count(shared, "one")) for _ in range(10)]
        await asyncio.sleep(0)
        for task in counting[::2]:
            task.cancel()
        ended = await asyncio.gather(*counting, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended[::2])
        left = [one.remaining for one in ended[1::2] if isinstance(one, RateLimitState)]
        assert len(set(left)) == 5
        assert (await _count(shared, "one")).remaining < min(left)


async def test_an_invalid_host_of_redis_counts_as_unreachable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared = RateLimits("5/hour", "", "redis://a..b:6379/0")
    try:
        assert (await _count(shared, "one")).remaining == 4
        assert not shared.uses_shared_storage
    finally:
        shared.close()
    assert "each process counts alone: " in caplog.text


async def test_processes_count_alone_until_redis_is_back(
    database_url: str,
    redis: tuple[int, Redis],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(rate_limits, "RECONNECT_SECONDS", 0.1)
    caplog.set_level("INFO", "app")
    port, server = redis

    def is_up() -> float | None:
        return REGISTRY.get_sample_value("pypi_stats_rate_limit_storage_up", {"storage": "redis"})

    async with _service(database_url, port) as client:
        assert await _left(client) == (404, "4")
        assert is_up() == 1
        # It hangs: connections are taken, and nothing is answered.
        server.client_pause(5000)
        began = monotonic()
        answers = await asyncio.gather(*(_left(client) for _ in range(8)))
        waited = monotonic() - began
        # In its own budget, and all but the first few without a wait.
        assert sorted(answers) == [(404, str(left)) for left in range(5)] + [(429, "0")] * 3
        assert waited < 5
        assert is_up() == 0
        await until(lambda: is_up() == 1)
        # What was counted before is still there.
        assert await _left(client) == (404, "3")
    assert caplog.text.count("can't reach the storage of the rate limits") == 1
    assert caplog.text.count("the storage of the rate limits is back") == 1


async def test_a_redis_that_is_never_reachable(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with _service(database_url, free_port()) as client:
        shown = [await _left(client) for _ in range(6)]
    assert shown == [(404, "4"), (404, "3"), (404, "2"), (404, "1"), (404, "0"), (429, "0")]
    assert caplog.text.count("can't reach the storage of the rate limits") == 1


# Memory


def test_counters_count_until_they_expire(stopwatch: Stopwatch) -> None:
    storage = BoundedMemoryStorage("memory+bounded://")
    assert [storage.count("key", 60).requests for _ in range(3)] == [1, 2, 3]
    stopwatch.seconds += 59
    assert storage.count("key", 60).requests == 4
    assert storage.state("key").requests == 4
    stopwatch.seconds += 1
    assert storage.state("key").requests == 0
    assert storage.get("key") == 0
    assert storage.incr("key", 60) == 1
    assert 0 < storage.get_expiry("key") - time() <= 60
    storage.clear("key")
    assert storage.get("key") == 0
    assert storage.reset() == 0


def test_a_flood_of_addresses_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that stays in touch keeps its count."""
    monkeypatch.setattr(limit_storage, "MAX_COUNTERS", 200)
    limits = RateLimits("1000000/hour")

    def flood(networks: range) -> None:
        for number in networks:
            _count_at_once(limits, f"2001:db8:{number >> 16:x}:{number & 65535:x}::/64")
            if number % 100 == 0:
                _count_at_once(limits, "192.0.2.1")

    flood(range(2_000))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    flood(range(2_000, 12_000))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # Ten thousand counters would take more than ten times as much.
    assert grown < 400_000
    assert _count_at_once(limits, "192.0.2.1").remaining == 1_000_000 - 121


def test_the_number_of_counters_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the counters takes a tenth of the memory."""
    monkeypatch.setattr(limit_storage, "MAX_COUNTERS", MAX_COUNTERS // 10)
    limits = RateLimits("10/second;300/minute")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(6 * limit_storage.MAX_COUNTERS // 10):
        _count_at_once(limits, f"2001:db8:{number >> 16:x}:{number & 65535:x}::/64")
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # Each client has two counters, so some are evicted.
    assert grown < 6_000_000
