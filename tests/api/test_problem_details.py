"""Every error that a client can be given has one shape, on every route."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from itertools import product

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.endpoints import Endpoints
from app.api.problem_details import Problem
from app.domain.breakdowns import BREAKDOWNS
from app.errors import DatabaseUnavailableError
from app.main import Service, create_app
from app.settings import Settings
from tests.days import days_ago, downloads, publish
from tests.processes import free_port

TEMPLATES = list(create_app(Settings(), "postgresql:///unused").openapi()["paths"])
ROUTES = [
    path.replace("{package}", "requests")
    .replace("{period}", "month")
    .replace("{name}", "x.parquet")
    for path in TEMPLATES
]
PACKAGE_ROUTES = [
    path for path, template in zip(ROUTES, TEMPLATES, strict=True) if "{package}" in template
]
OTHER_DATA_ROUTES = [
    "/api/top",
    "/api/trending",
    "/api/search?q=requests",
    "/api/bulk/recent?package=requests",
    "/api/bulk/overall?package=requests",
]
DATA_ROUTES = [*PACKAGE_ROUTES, *OTHER_DATA_ROUTES]
QUERYING_ROUTES = [*DATA_ROUTES, "/api/status"]
ARGUMENTS = {
    "recent": ("period", "day", "week"),
    "overall": ("mirrors", "true", "false"),
    **{
        one.name: (one.argument, one.examples[-1], one.filter_example or one.examples[0])
        for one in BREAKDOWNS
    },
}
"""Each data route's argument, and two of its values."""

WITHOUT_ARGUMENTS = ["/api/packages/requests", "/api/badges/requests/month"]


def _check(response: httpx.Response, status: int, *, title: str) -> Problem:
    """The shape, and that nothing is told that is nobody's business."""
    assert response.status_code == status, response.request.url
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.content, strict=True, extra="forbid")
    assert (problem.type, problem.title, problem.status) == ("about:blank", title, status)
    assert problem.detail.endswith((".", "'")) or status == 422
    assert (problem.errors is not None) == (status == 422)
    assert problem.request_id == response.headers["x-request-id"]
    waits = response.headers.get("retry-after")
    assert (int(waits or 0) > 0) == (status in (429, 503))
    for inner in ("Traceback", "SELECT", "secret", "127.0.0.1", "sqlalchemy", "<"):
        assert inner not in response.text
    assert response.headers["cache-control"] == "no-cache"
    assert "etag" not in response.headers
    return problem


def test_the_walk_knows_all_routes_and_arguments() -> None:
    series = {f"/api/packages/requests/{name}" for name in ARGUMENTS}
    assert set(PACKAGE_ROUTES) == {*series, *WITHOUT_ARGUMENTS}
    others = {path.partition("?")[0] for path in OTHER_DATA_ROUTES}
    dumps = {"/api/dumps", "/api/dumps/x.parquet"}
    quiet = {"/", "/api/events", "/health", "/metrics", "/ready", "/api/status", *dumps}
    assert set(ROUTES) == {*PACKAGE_ROUTES, *others, *quiet}


async def test_unknown_paths(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    # A path may be that of a package, and so an unknown one that of an unknown package.
    await publish(engine, days_ago(0), downloads("flask", 1))
    no_period = "/api/badges/requests/monthx"
    for path in ROUTES:
        for unknown in ("/nothing", "x", "/"):
            if path + unknown not in ("//", no_period):
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
    for path in set(PACKAGE_ROUTES) - set(WITHOUT_ARGUMENTS):
        name, one, other = ARGUMENTS[path.rpartition("/")[2]]
        # Any text may be a version.
        for wrong in ("wrong", f"{one} ") if name != "version" else ():
            response = await client.get(path, params={name: wrong})
            problem = _check(response, 422, title="Unprocessable Content")
            (fault,) = problem.errors or []
            assert fault.parameter == name
            assert f"'{one}'" in fault.message
            assert f"'{other}'" in fault.message


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


async def test_what_nobody_thought_of_tells_nothing(
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
async def test_what_takes_too_long(
    client: httpx.AsyncClient, repository_does: Callable[[Callable[[], Awaitable[None]]], None]
) -> None:
    async def hang() -> None:
        await asyncio.sleep(3600)

    repository_does(hang)
    for path in QUERYING_ROUTES:
        problem = _check(await client.get(path), 503, title="Service Unavailable")
        assert problem.detail == "The answer took more than 0.05 s."


async def test_an_empty_database(client: httpx.AsyncClient) -> None:
    for path in DATA_ROUTES:
        problem = _check(await client.get(path), 503, title="Service Unavailable")
        assert problem.detail == "No day has been published yet."


async def test_a_database_that_goes_away(
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


async def test_a_database_that_is_not_there(
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
    assert "the database at 127.0.0.1 can't be reached: " in caplog.text
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
