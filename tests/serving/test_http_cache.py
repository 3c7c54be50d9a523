"""Conditional requests, compression, and the cache of finished responses."""

import asyncio
import gc
import gzip
import re
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from functools import partial
from hashlib import sha256
from itertools import pairwise
from threading import current_thread, main_thread
from typing import Any

import brotli
import httpx
import pytest
import zstandard
from prometheus_client import REGISTRY
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api import headers, negotiation, recent, time_series
from app.api.endpoints import RENDERING_VERSION
from app.api.negotiation import preferred_encoding
from app.api.time_series import SeriesQuery
from app.db.statements import PublishedReads
from app.db.steps import Step
from app.db.tables import publication
from app.domain.clock import utc_now
from app.domain.downloads import Publication
from app.main import Service, create_app
from app.serving import response_cache
from app.settings import Settings
from tests.api import test_bulk, test_packages, test_rankings
from tests.api.test_packages import GOLDENS
from tests.api.test_time_series import CSV
from tests.clock import ManualClock
from tests.days import days_ago, downloads, publish
from tests.faults.steps import each_step
from tests.waiting import PATIENCE_SECONDS, published, until, until_known

ENDPOINTS = ("recent", "overall", "python_major", "python_minor", "system")

ALL_GOLDENS: tuple[dict[str, str], ...] = (
    test_packages.GOLDENS,
    test_bulk.GOLDENS,
    test_rankings.GOLDENS,
)

MODULES = (recent, time_series, response_cache, headers, negotiation)
"""That allocate what is kept of an answer."""


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still, after every publish of the test."""
    return ManualClock(utc_now() + timedelta(minutes=5))


DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
}


def _path(endpoint: str, package: str = "zope-interface") -> str:
    return f"/api/packages/{package}/{endpoint}"


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_headers(app: Service, client: httpx.AsyncClient, method: str) -> None:
    for endpoint in ENDPOINTS:
        response = await client.request(method, _path(endpoint))
        assert response.status_code == 200
        assert response.headers["etag"].startswith('"')
        published_at = published(app).published_at
        assert response.headers["last-modified"] == format_datetime(published_at, usegmt=True)
        assert response.headers["vary"] == "Accept, Accept-Encoding"
        assert response.headers["x-data-as-of"] == str(days_ago(0))
        # Days are missing.
        assert response.headers["cache-control"] == (
            "public, max-age=60, stale-while-revalidate=300, stale-if-error=86400"
        )
        assert "age" not in response.headers


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_current_tag_costs_no_query(
    app: Service,
    database_url: str,
    client: httpx.AsyncClient,
    queries: list[str],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    responses = {endpoint: await client.get(_path(endpoint)) for endpoint in ENDPOINTS}
    # Also of a process that has never given the answer.
    other = create_app(Settings(rate_limits=""), database_url)
    async with other.running():
        await until_known(other)
        monkeypatch.setattr(other.state.statistics.downloads, "recent", None)
        transport = httpx.ASGITransport(other, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as elsewhere:
            for endpoint, response in responses.items():
                headers = {"If-None-Match": response.headers["etag"]}
                again = await elsewhere.get(_path(endpoint), headers=headers)
                assert again.status_code == 304
    del queries[:]
    for endpoint, response in responses.items():
        tag = response.headers["etag"]
        for given in (tag, f'"other", W/{tag}'):
            again = await client.request(method, _path(endpoint), headers={"If-None-Match": given})
            assert again.status_code == 304
            assert again.content == b""
            assert again.headers["etag"] == tag
            for name in ("cache-control", "vary", "last-modified"):
                assert (
                    again.headers[name].partition(",")[0]
                    == (response.headers[name].partition(",")[0])
                )
    assert queries == []


@pytest.mark.usefixtures("known_days")
async def test_other_tags_and_other_requests_get_a_body(client: httpx.AsyncClient) -> None:
    tag = (await client.get(_path("recent"))).headers["etag"]
    for path, given in (
        ("recent", '"other"'),
        ("recent", "nonsense"),
        ("recent?period=day", tag),
        ("overall", tag),
    ):
        response = await client.get(_path(path), headers={"If-None-Match": given})
        assert response.status_code == 200, path
        assert response.headers["etag"] != given
    for path, status in ((_path("recent", "unknown"), 404), (_path("recent?period=year"), 422)):
        for condition in (tag, "*"):
            response = await client.get(path, headers={"If-None-Match": condition})
            assert response.status_code == status
            assert "etag" not in response.headers
    response = await client.get(_path("recent"), headers={"If-None-Match": "*"})
    assert response.status_code == 304


async def test_equal_rows_that_are_published_again_have_a_new_date(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine, clock: ManualClock
) -> None:
    await publish(engine, days_ago(0), downloads("requests", {"3.12": 1}))
    await until_known(app)
    first = await client.get(_path("recent", "requests"))
    before = published(app)
    clock.advance(minutes=1)
    await publish(engine, days_ago(0), downloads("requests", {"3.12": 1}))
    await until(lambda: published(app).published_at != before.published_at)
    second = await client.get(_path("recent", "requests"))
    assert published(app).version == before.version
    assert second.headers["etag"] == first.headers["etag"]
    assert second.headers["last-modified"] == _date(published(app))
    assert (
        await client.get(_path("recent", "requests"), headers=_since(second))
    ).status_code == 304


@pytest.mark.usefixtures("known_days")
async def test_dates(client: httpx.AsyncClient, queries: list[str]) -> None:
    response = await client.get(_path("system"))
    modified = response.headers["last-modified"]
    earlier, later = (
        format_datetime(parsedate_to_datetime(modified) + timedelta(seconds=seconds), usegmt=True)
        for seconds in (-1, 1)
    )
    del queries[:]
    for since, tag, status in (
        (modified, None, 304),
        (earlier, None, 200),
        # The client need not have got what was published before that.
        (later, None, 200),
        ("yesterday", None, 200),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None, 200),
        # A tag goes before a date.
        (modified, '"other"', 200),
    ):
        headers = {"If-Modified-Since": since} | ({"If-None-Match": tag} if tag else {})
        response = await client.get(_path("system"), headers=headers)
        assert response.status_code == status, headers
    assert queries == []
    # A date proves nothing: the client need not have got an answer.
    headers = {"If-Modified-Since": modified}
    assert (await client.get(_path("system", "unknown"), headers=headers)).status_code == 404
    assert (await client.get(_path("system?os=beos"), headers=headers)).status_code == 422


@pytest.mark.usefixtures("known_days")
async def test_equal_requests_share_a_cached_response(
    client: httpx.AsyncClient, queries: list[str]
) -> None:
    first = await client.get(_path("overall?mirrors=true"))
    assert len(queries) == 1
    for path in (
        _path("overall?&mirrors=true"),
        _path("overall?mirrors=True&mirrors=false&callback=x", "Zope.Interface"),
        _path("overall?utm=1&mirrors=%74rue", "zope%2Einterface"),
    ):
        response = await client.get(path)
        assert response.content == first.content
        assert response.headers["etag"] == first.headers["etag"]
    assert len(queries) == 1


@pytest.mark.usefixtures("known_days")
async def test_concurrent_equal_requests_share_one_query(
    client: httpx.AsyncClient, queries: list[str]
) -> None:
    responses = await asyncio.gather(*(client.get(_path("recent")) for _ in range(20)))
    assert {response.text for response in responses} == {GOLDENS["recent"]}
    assert len({response.headers["x-request-id"] for response in responses}) == 20
    assert len(queries) == 1
    del queries[:]
    # Errors name the request of each who asked.
    responses = await asyncio.gather(*(client.get(_path("recent", "unknown")) for _ in range(5)))
    assert {response.status_code for response in responses} == {404}
    assert len({response.json()["request_id"] for response in responses}) == 5


@pytest.mark.usefixtures("known_days")
async def test_a_publish_empties_the_cache(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    before = await client.get(_path("recent"))
    version = await until_known(app)
    await publish(engine, days_ago(0), downloads("zope-interface", 9))
    await until_known(app, version)
    after = await client.get(_path("recent"), headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert after.json()["data"]["last_day"] == 9
    # The same rows again are the same data, whenever they were published.
    published_at = published(app).published_at
    await publish(engine, days_ago(0), downloads("zope-interface", 9))
    app.dispatcher.publication_watch.publication = None
    await until_known(app)
    assert published(app).published_at > published_at
    again = await client.get(_path("recent"), headers={"If-None-Match": after.headers["etag"]})
    assert again.status_code == 304


@dataclass
class Held:
    """A response whose query has run, and which is sent once `may_go_on` is set."""

    response: asyncio.Task[httpx.Response]
    may_go_on: asyncio.Event


@pytest.fixture
def held_after_its_query(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Awaitable[Held]]:
    """Ask for a path, and wait until its query has run."""
    read = PublishedReads._read

    async def ask(path: str) -> Held:
        has_read, may_go_on = asyncio.Event(), asyncio.Event()

        async def read_and_wait(*arguments: Any, **named: Any) -> Any:
            try:
                return await read(*arguments, **named)
            finally:
                has_read.set()
                await may_go_on.wait()

        with monkeypatch.context() as patch:
            patch.setattr(PublishedReads, "_read", read_and_wait)
            response = asyncio.create_task(client.get(path))
            await has_read.wait()
        return Held(response, may_go_on)

    return ask


@pytest.mark.parametrize("path", ["recent", "unknown/recent", "overall", "python_minor"])
async def test_headers_describe_the_publication_that_the_query_saw(
    app: Service,
    client: httpx.AsyncClient,
    engine: AsyncEngine,
    held_after_its_query: Callable[[str], Awaitable[Held]],
    path: str,
) -> None:
    """The response is slow, and the day that it is about is no longer the latest when it ends."""
    package = "zope-interface"
    path = _path("recent", "unknown") if path == "unknown/recent" else _path(path)
    await publish(engine, days_ago(1), downloads(package, 9))
    version = await until_known(app)
    old = published(app)
    held = await held_after_its_query(path)
    await publish(engine, days_ago(0), downloads(package, 10))
    await until_known(app, version)
    new = published(app)
    held.may_go_on.set()
    response = await held.response
    expected = await client.get(path)
    assert response.headers["x-data-as-of"] == str(days_ago(1))
    assert expected.headers["x-data-as-of"] == str(days_ago(0))
    if response.status_code == 200:
        assert response.headers["last-modified"] == _date(old)
        assert _max_age(response) == 60
        assert expected.headers["last-modified"] == _date(new)
        assert expected.content != response.content
        assert expected.headers["etag"] != response.headers["etag"]
        # The old answer was not kept.
        for headers in ({"If-None-Match": response.headers["etag"]}, _since(response)):
            again = await client.get(path, headers=headers)
            assert again.status_code == 200
            assert again.content == expected.content


def _date(publication: Publication) -> str:
    return format_datetime(publication.published_at, usegmt=True)


def _since(response: httpx.Response) -> dict[str, str]:
    return {"If-Modified-Since": response.headers["last-modified"]}


def _max_age(response: httpx.Response) -> int:
    return int(response.headers["cache-control"].partition("max-age=")[2].partition(",")[0])


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize("is_ahead", [True, False])
async def test_a_query_may_see_another_publication_than_the_listener(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine, is_ahead: bool
) -> None:
    """With several replicas behind one address, each connection may have another one. Here the
    process hears of nothing, or believes to have heard of more than there is.
    """
    before = await client.get(_path("recent"))
    publication_watch = app.dispatcher.publication_watch
    heard_of = published(app)
    confirm = publication_watch.confirm
    if is_ahead:
        later = heard_of.published_at + timedelta(hours=1)
        heard_of = replace(heard_of, version="later", published_at=later)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publication_watch, "confirm", lambda _: confirm(heard_of))
        confirm(heard_of)
        if not is_ahead:
            await publish(engine, days_ago(0), downloads("zope-interface", 9))
        for path in (_path("overall"), _path("recent?period=day"), _path("recent", "unknown")):
            first, second = [await client.get(path) for _ in range(2)]
            assert first.headers["x-data-as-of"] == str(days_ago(0))
            if first.status_code == 200:
                assert first.headers["etag"] == second.headers["etag"]
                assert _max_age(first) == 60
        current = await app.state.statistics.downloads.publication()
        assert current
        answer = await client.get(_path("recent?period=week"))
        assert answer.headers["last-modified"] == _date(current)
        assert (answer.headers["last-modified"] == before.headers["last-modified"]) == is_ahead
    await until(lambda: published(app).version == current.version)
    # All of it is what the process then answers by itself.
    tag = {"If-None-Match": answer.headers["etag"]}
    assert (await client.get(_path("recent?period=week"), headers=tag)).status_code == 304


async def _scalar(engine: AsyncEngine, value: ColumnElement[datetime]) -> datetime:
    async with engine.begin() as connection:
        return (await connection.scalars(select(value))).one()


async def test_the_time_of_a_publish_is_taken_last(engine: AsyncEngine) -> None:
    """Responses before and after its commit have different `Last-Modified`."""
    times: list[datetime] = []
    steps: dict[Step, datetime] = {}
    for number in range(3):
        with each_step(lambda entered: steps.update({entered.step: datetime.now(UTC)})):
            await publish(engine, days_ago(0), downloads("flask", number + 1))
        times.append(await _scalar(engine, publication.c.published_at))
        assert times[-1] >= steps[Step.ANNOUNCE]
    assert all(later - earlier >= timedelta(seconds=1) for earlier, later in pairwise(times))
    # The clock was ahead, and was set back.
    ahead = times[-1] + timedelta(hours=1)
    async with engine.begin() as connection:
        await connection.execute(update(publication).values(published_at=ahead))
    await publish(engine, days_ago(0), downloads("flask", 9))
    assert await _scalar(engine, publication.c.published_at) > ahead


@pytest.mark.parametrize("settings", [Settings(rate_limits="", response_cache_max_bytes=0)])
async def test_without_a_cache_each_response_needs_a_query(
    client: httpx.AsyncClient, known_days: None, queries: list[str]
) -> None:
    for _ in range(3):
        assert (await client.get(_path("recent"))).text == GOLDENS["recent"]
    assert len(queries) == 3
    tag = (await client.get(_path("recent"))).headers["etag"]
    del queries[:]
    response = await client.get(_path("recent"), headers={"If-None-Match": tag})
    assert response.status_code == 304
    assert queries == []


@pytest.mark.parametrize("settings", [Settings(rate_limits="", response_cache_max_bytes=10_000)])
async def test_the_cache_is_bounded_and_evicts_the_least_recently_used(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine, queries: list[str]
) -> None:
    names = [f"package-{number}" for number in range(30)]
    await publish(engine, days_ago(0), *(downloads(name, 1) for name in names))
    await until_known(app)
    for name in names:
        await client.get(_path("recent", name))
        await client.get(_path("recent", names[0]))
        size = REGISTRY.get_sample_value("pypi_stats_response_cache_bytes")
        assert size is not None
        assert response_cache.ENTRY_BYTES < size <= 10_000
    assert len(queries) == len(names)
    await client.get(_path("recent", names[1]))
    assert len(queries) == len(names) + 1


@pytest.mark.parametrize(
    ("endpoint", "encoding"),
    [("recent", "identity"), *(("python_minor", encoding) for encoding in ("gzip", "br", "zstd"))],
)
async def test_cache_entries_take_the_memory_that_the_metric_reports(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine, endpoint: str, encoding: str
) -> None:
    names = [f"package-{number}" for number in range(200)]
    minors = {f"3.{minor}": 1 for minor in range(100)}
    await publish(engine, days_ago(0), *(downloads(name, minors) for name in names))
    await until_known(app)
    headers = {"Accept-Encoding": encoding}
    await client.get(_path(endpoint, names[0]), headers=headers)
    before = REGISTRY.get_sample_value("pypi_stats_response_cache_bytes")
    assert before is not None
    tracemalloc.start()
    for name in names[1:]:
        await client.get(_path(endpoint, name), headers=headers)
    # Responses that the test's client no longer refers to do not count.
    gc.collect()
    taken = tracemalloc.take_snapshot()
    tracemalloc.stop()
    told = REGISTRY.get_sample_value("pypi_stats_response_cache_bytes")
    assert told is not None
    ours = [tracemalloc.Filter(True, str(module.__file__)) for module in MODULES]
    held = sum(one.size for one in taken.filter_traces(ours).statistics("lineno"))
    assert (told - before) / 3 < held < told - before


@pytest.mark.usefixtures("known_days")
async def test_errors_and_empty_results_are_not_cached(
    client: httpx.AsyncClient,
) -> None:
    await client.get(_path("system"))
    before = REGISTRY.get_sample_value("pypi_stats_response_cache_bytes")
    for number in range(10):
        for path in (
            f"python_minor?version={number}.x",
            f"recent?period={number}",
            f"system?number={number}",
        ):
            await client.get(_path(path))
        await client.get(_path("recent", f"unknown-{number}"))
    assert REGISTRY.get_sample_value("pypi_stats_response_cache_bytes") == before


@pytest.mark.parametrize("settings", [Settings(rate_limits="", response_cache_max_bytes=40_000)])
async def test_a_flood_of_ranges_and_sets_evicts_only_its_own_entries(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine, queries: list[str]
) -> None:
    names = [f"package-{number}" for number in range(8)]
    await publish(engine, days_ago(0), *(downloads(name, 1) for name in names))
    await until_known(app)
    for name in names:
        await client.get(_path("recent", name))
    open_questions = [
        *(_path("system", names[0]) + f"?start_date={days_ago(day)}" for day in range(100)),
        *(f"/api/bulk/recent?package={one}&package={other}" for one in names for other in names),
    ]
    for path in open_questions:
        assert (await client.get(path)).status_code == 200
    size = REGISTRY.get_sample_value("pypi_stats_response_cache_bytes")
    assert size is not None
    assert (
        size < 40_000 * response_cache.UNBOUNDED_SHARE + len(names) * 2 * response_cache.ENTRY_BYTES
    )
    assert len(queries) > len(open_questions) / 2
    del queries[:]
    for path in [*map(partial(_path, "recent"), names), open_questions[-1]]:
        assert (await client.get(path)).status_code == 200
    assert queries == []


@pytest.fixture
async def long_series(app: Service, engine: AsyncEngine) -> str:
    """An answer that is worth compressing."""
    minors = {f"3.{minor}": 1000 + minor for minor in range(20)}
    for ago in range(3):
        await publish(engine, days_ago(ago), downloads("long", minors))
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication and known.publication.latest_day == days_ago(0))
    return _path("python_minor", "long")


async def test_bodies_are_compressed_once(client: httpx.AsyncClient, long_series: str) -> None:
    plain = await client.get(long_series, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert len(plain.content) > 3000
    tags = {plain.headers["etag"]}
    for encoding, decode in DECODERS.items():
        for _ in range(2):  # As it is made, and as it is kept.
            headers = {"Accept-Encoding": encoding}
            async with client.stream("GET", long_series, headers=headers) as response:
                raw = b"".join([chunk async for chunk in response.aiter_raw()])
            assert response.headers["content-encoding"] == encoding
            assert response.headers["vary"] == "Accept, Accept-Encoding"
            assert len(raw) == int(response.headers["content-length"]) < len(plain.content) / 4
            assert decode(raw) == plain.content
            tags.add(response.headers["etag"])
        headers |= {"If-None-Match": response.headers["etag"]}
        assert (await client.get(long_series, headers=headers)).status_code == 304
    # Other bytes, another strong tag.
    assert len(tags) == 4


@pytest.mark.parametrize("is_large", [True, False])
@pytest.mark.parametrize("query", ["", "?format=csv", "?fill=zero"])
async def test_large_bodies_are_rendered_in_a_thread(
    client: httpx.AsyncClient,
    long_series: str,
    monkeypatch: pytest.MonkeyPatch,
    is_large: bool,
    query: str,
) -> None:
    """Other requests are answered meanwhile."""
    threads = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def note_and_call(*arguments: Any) -> Any:
            threads.append(current_thread())
            return function(*arguments)

        return note_and_call

    monkeypatch.setattr(SeriesQuery, "shape", noting(SeriesQuery.shape))
    monkeypatch.setattr(response_cache, "compressed", noting(negotiation.compressed))
    if is_large:
        monkeypatch.setattr(time_series, "LARGE_ITEMS", 60)
        monkeypatch.setattr(response_cache, "LARGE_BYTES", 1000)
    assert (await client.get(f"{long_series}{query}")).status_code == 200
    assert [thread is main_thread() for thread in threads] == [not is_large] * 2


async def test_small_bodies_and_errors_are_not_compressed(
    client: httpx.AsyncClient, known_days: None
) -> None:
    for path in ("recent", "recent?period=year"):
        response = await client.get(_path(path), headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in response.headers
    document = await client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert document.headers["content-encoding"] == "gzip"
    assert document.json()["openapi"]


@pytest.mark.usefixtures("known_days")
async def test_no_response_chooses_an_encoding_by_a_wildcard(client: httpx.AsyncClient) -> None:
    for path in (_path("python_minor"), "/openapi.json", "/docs", "/docs.md", "/metrics"):
        for given, chosen in (("*", None), ("br;q=0.1, gzip;q=0.2", "gzip"), ("gzip;q=2", None)):
            response = await client.get(path, headers={"Accept-Encoding": given})
            assert response.status_code == 200
            if path != _path("python_minor") or not chosen:
                assert response.headers.get("content-encoding") == chosen, path


RANGES: list[tuple[str, tuple[int, int | None] | str | None]] = [
    ("bytes=0-9", (0, 10)),
    ("Bytes=10-", (10, None)),
    ("bytes= 5-5 ", (5, 6)),
    ("bytes=-7", (-7, None)),
    ("bytes=-99999999", (0, None)),
    ("bytes=3-99999999", (3, None)),
    # Positions beyond the body.
    ("bytes=99999999-", "416"),
    ("bytes=-0", "416"),
    # Invalid ranges, unknown units, and several ranges are ignored.
    *((given, None) for given in ("bytes=9-1", "bytes=-", "bytes=a-b", "bytes", "")),
    *((given, None) for given in ("items=0-9", "seconds=1-2", "bytes=0-1,3-4", "bytes=1")),
]
"""Range headers, and the positions of the part, or the status, or None for the whole body."""


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_ranges(client: httpx.AsyncClient, long_series: str, encoding: str) -> None:
    async def get(**headers: str) -> tuple[httpx.Response, bytes]:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers["Accept-Encoding"] = encoding
        async with client.stream("GET", long_series, headers=headers) as response:
            return response, b"".join([chunk async for chunk in response.aiter_raw()])

    whole, body = await get()
    assert whole.headers["accept-ranges"] == "bytes"
    tag = whole.headers["etag"]
    for given, positions in RANGES:
        for if_range in ({}, {"if_range": tag}):
            response, part = await get(range=given, **if_range)
            if positions is None:
                assert (response.status_code, part) == (200, body)
            elif isinstance(positions, str):
                assert response.status_code == 416
                assert response.headers["content-range"] == f"bytes */{len(body)}"
            else:
                expected = body[slice(*positions)]
                assert (response.status_code, part) == (206, expected)
                assert response.headers["etag"] == tag
                assert int(response.headers["content-length"]) == len(expected)
                first = (
                    body.index(expected) if positions[0] > 9 or positions[0] < 0 else positions[0]
                )
                shown = f"bytes {first}-{first + len(expected) - 1}/{len(body)}"
                assert response.headers["content-range"] == shown
                assert response.headers.get("content-encoding") == whole.headers.get(
                    "content-encoding"
                )
        for other in ('"other"', f"W/{tag}", whole.headers["last-modified"]):
            response, part = await get(range=given, if_range=other)
            assert (response.status_code, part) == (200, body)
        assert (await get(range=given, if_none_match=tag))[0].status_code == 304
        head = await client.head(long_series, headers={"Range": given, "Accept-Encoding": encoding})
        assert head.status_code == 200


@pytest.mark.parametrize(
    ("accept_encoding", "preferred"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, br", "br"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0, gzip;q=1.0", "gzip"),
        ("*", ""),
        ("*;q=1, identity;q=0", "gzip"),
        ("identity;q=0, *;q=0, br", "br"),
        ("gzip ; Q = 0.5", "gzip"),
        ("*;q=0, gzip", "gzip"),
        ("zstd;q=0, *", ""),
        *((f"gzip;q={quality}", "") for quality in ("nan", "inf", "1.5", "-1", "0.0001", "")),
        ("gzip;q=high", ""),
        ("compress", ""),
        ("gzip;q=1.0, zstd;q=0.1", "gzip"),
        ("identity;q=1, *;q=0.5", ""),
        ("identity, gzip", "gzip"),
        ("br;q=1;x=1", "br"),
    ],
)
def test_accept_encoding_selects_the_compression(accept_encoding: str, preferred: str) -> None:
    assert preferred_encoding(accept_encoding.encode()) == preferred


def test_another_rendering_has_another_tag() -> None:
    """Tags tell the rendering by its name: where bytes change, the name has to."""
    texts = sorted(text for goldens in ALL_GOLDENS for text in goldens.values())
    undated = re.sub(r"\d{4}-\d\d-\d\d", "DAY", "".join([*texts, CSV]))
    rendered = sha256(undated.encode()).hexdigest()
    assert (RENDERING_VERSION, rendered[:16]) == ("1", "25a321881192ee94")


@pytest.mark.parametrize("settings", [Settings(rate_limits="", request_timeout_seconds=0.3)])
async def test_a_request_that_shares_a_computation_has_its_own_timeout(
    app: Service, client: httpx.AsyncClient, known_days: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def hang(package: str) -> None:
        asked.append(package)
        await asyncio.sleep(3600)

    monkeypatch.setattr(app.state.statistics.downloads, "recent", hang)
    async with asyncio.timeout(PATIENCE_SECONDS):
        responses = await asyncio.gather(*(client.get(_path("recent")) for _ in range(5)))
    assert {response.status_code for response in responses} == {503}
    assert all(int(response.headers["retry-after"]) > 0 for response in responses)
    assert len(asked) == 1


@pytest.mark.usefixtures("known_days")
async def test_a_path_with_a_trailing_newline_is_not_found(client: httpx.AsyncClient) -> None:
    """A proxy that guards a path would not know this one for it."""
    for path in (_path("recent"), "/metrics", "/health", "/openapi.json"):
        assert (await client.get(f"{path}%0A")).status_code == 404
