"""All errors have one format, on every route."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from itertools import product
from urllib.parse import urlencode

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.endpoints import Endpoints
from app.api.problem_details import Problem
from app.errors import DatabaseUnavailableError
from app.main import ENDPOINTS, Service, create_app
from app.settings import Settings
from tests.days import days_ago, downloads, publish
from tests.processes import free_port

TEMPLATES = list(create_app(Settings(), "postgresql:///unused").openapi()["paths"])
REQUIRED = {"q": "requests", "package": "requests"}


def _filled(template: str) -> str:
    return template.format(package="requests", period="month", breakdown="system", name="x.parquet")


ROUTES = list(map(_filled, TEMPLATES))
PACKAGE_ROUTES = [_filled(template) for template in TEMPLATES if "{package}" in template]
DATA_ROUTES = []
for endpoint in ENDPOINTS:
    fields = endpoint.query.model_fields.items()
    required = {name: REQUIRED[name] for name, field in fields if field.is_required()}
    DATA_ROUTES.append(f"{_filled(endpoint.path)}?{urlencode(required)}")
QUERYING_ROUTES = [*DATA_ROUTES, "/api/status"]


def _check(response: httpx.Response, status: int, *, title: str) -> Problem:
    """Check the format of an error, and that it contains no internal detail."""
    assert response.status_code == status, response.request.url
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.content, strict=True, extra="forbid")
    assert (problem.type, problem.title, problem.status) == ("about:blank", title, status)
    assert problem.detail.endswith((".", "'")) or status == 422
    assert bool(problem.errors) == (status == 422)
    assert problem.request_id == response.headers["x-request-id"]
    waits = response.headers.get("retry-after")
    assert (int(waits or 0) > 0) == (status in (429, 503))
    for inner in ("Traceback", "SELECT", "secret", "127.0.0.1", "sqlalchemy", "<"):
        assert inner not in response.text
    assert response.headers["cache-control"] == "no-cache"
    assert "etag" not in response.headers
    return problem


async def test_unknown_paths(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    # A path may be that of a package, and so an unknown one that of an unknown package.
    await publish(engine, days_ago(0), downloads("flask", 1))
    # Paths with a wrong argument are a 422.
    wrong = {"/api/badges/requests/monthx"}
    wrong |= {f"/api/bulk/{name}x" for name in ("overall", "recent", "system")}
    for path in ROUTES:
        for unknown in ("/nothing", "x", "/"):
            if path + unknown not in {"//", *wrong}:
                _check(await client.get(path.rstrip("/") + unknown), 404, title="Not Found")


async def test_unknown_and_impossible_packages(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    for route, name in product(PACKAGE_ROUTES, ("requests", "-", "ü", "a%00b", "x" * 500)):
        path = route.replace("requests", name)
        _check(await client.get(path), 404, title="Not Found")


async def test_methods(client: httpx.AsyncClient) -> None:
    for path, method in product(ROUTES, ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")):
        response = await client.request(method, path)
        _check(response, 405, title="Method Not Allowed")
        assert response.headers["allow"] == "GET, HEAD"


async def test_wrong_arguments(client: httpx.AsyncClient) -> None:
    """`test_endpoints` has the messages of all arguments."""
    for path in ("recent?period=year", "country?country=USA", "overall?end_date=x&mirrors=1"):
        response = await client.get(f"/api/packages/requests/{path}")
        problem = _check(response, 422, title="Unprocessable Content")
        faults = [f"{fault.parameter}: {fault.message}" for fault in problem.errors]
        assert len(faults) == path.count("=")
        assert problem.detail == "; ".join(faults)


@pytest.mark.parametrize("settings", [Settings(rate_limits="1/hour")])
async def test_too_many_requests(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/status")).status_code == 200
    for path in (*QUERYING_ROUTES, "/api/nothing"):
        _check(await client.get(path), 429, title="Too Many Requests")


@pytest.fixture
def repository_does(
    app: Service, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Has every read do something else."""

    def replace(behaviour: Callable[[], Awaitable[None]]) -> None:
        async def method(*_: object) -> None:
            await behaviour()

        repositories = app.state.statistics
        for repository in (repositories.downloads, repositories.rankings):
            for name, original in vars(type(repository)).items():
                if iscoroutinefunction(original):
                    monkeypatch.setattr(repository, name, method)

    return replace


async def test_an_unexpected_error_discloses_nothing(
    client: httpx.AsyncClient,
    repository_does: Callable[[Callable[[], Awaitable[None]]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("secret")

    repository_does(fail)
    for path in QUERYING_ROUTES:
        _check(await client.get(path), 500, title="Internal Server Error")
    # Each is told once to who runs the service, with its trace.
    assert caplog.text.count("ZeroDivisionError: secret") == len(QUERYING_ROUTES)


@pytest.mark.parametrize("settings", [Settings(rate_limits="", request_timeout_seconds=0.05)])
async def test_a_request_that_takes_too_long_is_a_503(
    client: httpx.AsyncClient, repository_does: Callable[[Callable[[], Awaitable[None]]], None]
) -> None:
    async def hang() -> None:
        await asyncio.sleep(3600)

    repository_does(hang)
    for path in QUERYING_ROUTES:
        problem = _check(await client.get(path), 503, title="Service Unavailable")
        assert problem.detail == "The response took more than 0.05 s."


async def test_a_stop_cancels_computations_that_timed_out(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of the computation has already received its 503."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    settings = settings.model_copy(update={"request_timeout_seconds": 0.05})
    app = create_app(settings, database_url)
    monkeypatch.setattr(app.state.statistics.downloads, "publication", hang)
    transport = httpx.ASGITransport(app)
    async with app.running(), httpx.AsyncClient(transport=transport, base_url="http://test") as one:
        _check(await one.get("/api/packages/requests/recent"), 503, title="Service Unavailable")
        await began.wait()
        assert not ended.is_set()
    assert ended.is_set()


async def test_an_empty_database(client: httpx.AsyncClient) -> None:
    for path in DATA_ROUTES:
        problem = _check(await client.get(path), 503, title="Service Unavailable")
        assert problem.detail == "No day has been published yet."


async def test_a_database_that_becomes_unavailable(
    client: httpx.AsyncClient, repository_does: Callable[[Callable[[], Awaitable[None]]], None]
) -> None:
    async def fail() -> None:
        raise DatabaseUnavailableError("the database at secret went away")

    repository_does(fail)
    for path in QUERYING_ROUTES:
        _check(await client.get(path), 503, title="Service Unavailable")


@pytest.fixture
def nowhere() -> str:
    return f"postgresql://somebody:secret@127.0.0.1:{free_port()}/stats"


async def test_a_database_that_can_not_be_reached(
    settings: Settings, nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings, nowhere)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        for path in (*QUERYING_ROUTES, "/ready"):
            _check(await client.get(path), 503, title="Service Unavailable")
        for path in ("/", "/health", "/metrics"):
            assert (await client.get(path)).status_code == 200
    # Who runs the service is told what the client is not.
    assert "the database at 127.0.0.1:" in caplog.text
    assert "secret" not in caplog.text


async def test_the_dispatcher_may_fail_too(
    app: Service, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Endpoints, "parse", lambda *_: fail())
    response = await client.get("/api/packages/requests/recent")
    _check(response, 500, title="Internal Server Error")
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["x-content-type-options"] == "nosniff"
