"""One line a request, an id that leads to it, and the figures for Prometheus."""

import json
import logging
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.logs import LOG_STREAM, request_id
from app.main import Service, create_app
from app.settings import Settings
from tests.processes import get, served
from tests.waiting import wait_until

ENDPOINT = "/api/packages/{package}/recent"


async def test_response_and_log_have_the_same_request_id(client: httpx.AsyncClient) -> None:
    first, second = [await client.get("/nothing") for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in (first, second)]
    assert len(set(ids)) == 2
    assert [answer.json()["request_id"] for answer in (first, second)] == ids
    given = "01JD-4f.a:b_c"
    response = await client.get("/nothing", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given
    for bad in ("", "x" * 65, "two words", 'quote"', "<script>"):
        response = await client.get("/nothing", headers={"X-Request-ID": bad})
        assert re.fullmatch("[0-9a-f]{16}", response.headers["x-request-id"])


async def test_log_lines_of_a_request_have_its_id(
    app: Service, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def fail() -> None:
        raise ZeroDivisionError

    class Handler(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            seen.append(request_id.get())

    handler = Handler()
    logging.getLogger("app.serving.dispatch").addHandler(handler)
    monkeypatch.setattr(app.state.statistics.downloads, "publication", fail)
    response = await client.get("/api/packages/flask/recent")
    logging.getLogger("app.serving.dispatch").removeHandler(handler)
    assert response.status_code == 500
    assert seen == [response.headers["x-request-id"]]


QUESTIONS = {
    "/api/packages/Flask/recent?period=day&token=secret": (ENDPOINT, "period=day", 503),
    "/api/packages/flask/python_minor?version=3.12&&x": (
        "/api/packages/{package}/python_minor",
        "version=3.12",
        503,
    ),
    "/api/packages/flask/recent?period=year": (ENDPOINT, "period=year", 422),
    "/api/%0Aforged%20line?password=secret": ("none", "", 404),
    "/health": ("/health", "", 200),
}


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_each_request_is_one_log_line(
    database_url: str, capfd: pytest.CaptureFixture[str], log_format: str
) -> None:
    settings = Settings(rate_limits="", log_format=log_format, log_level="info")
    app = create_app(settings, database_url)
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 5))
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        answers = [await client.get(path) for path in QUESTIONS]
    LOG_STREAM.drain()
    lines = [line for line in capfd.readouterr().err.splitlines() if "app.requests" in line]
    assert len(lines) == len(QUESTIONS)
    for line, answer, (path, (_, query, status)) in zip(
        lines, answers, QUESTIONS.items(), strict=True
    ):
        assert "secret" not in line
        shown = {
            "method": "GET",
            "path": path.partition("?")[0],
            "query": query,
            "status": status,
            "bytes": len(answer.content),
            "client": "192.0.2.1",
            "request_id": answer.headers["x-request-id"],
        }
        if log_format == "json":
            fields = json.loads(line)
            assert (fields["event"], fields["level"]) == ("request", "info")
            assert 0 < fields["ms"] < 60_000
            assert shown.items() <= fields.items()
        else:
            asked = f"{path.partition('?')[0]}{'?' if query else ''}{query}"
            assert f" GET {asked} {status} [app.requests] " in line
            for name in ("bytes", "client", "request_id"):
                assert f" {name}={shown[name]}" in line


@pytest.mark.parametrize(
    "settings", [Settings(request_log=False), Settings(log_level="warning", request_log=True)]
)
async def test_the_request_log_can_be_disabled(
    client: httpx.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    await client.get("/health")
    LOG_STREAM.drain()
    assert capfd.readouterr().err == ""


def _figures(exposition: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def _requests(figures: dict[tuple[str, ...], float], route: str, status: int) -> float:
    caches = ("none", "miss", "hit", "tag_match")
    names = [("pypi_stats_requests_total", cache, route, str(status)) for cache in caches]
    return sum(figures.get(name, 0) for name in names)


async def test_requests_are_counted_by_route_and_status(client: httpx.AsyncClient) -> None:
    before = _figures((await client.get("/metrics")).text)
    for path in QUESTIONS:
        await client.get(path)
    await client.head("/health")
    after = _figures((await client.get("/metrics")).text)

    def grown(name: str, *labels: str) -> float:
        key = (f"pypi_stats_{name}", *labels)
        return after[key] - before.get(key, 0)

    for route, _, status in QUESTIONS.values():
        counted = [_requests(figures, route, status) for figures in (before, after)]
        assert counted[1] - counted[0] == 1 + (route == "/health")
    assert grown("request_seconds_count", ENDPOINT) == 2
    assert grown("request_seconds_sum", ENDPOINT) > 0
    assert grown("request_seconds_bucket", "+Inf", ENDPOINT) == 2


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize("settings", [Settings(rate_limits="3/hour")])
async def test_requests_are_counted_by_result_of_the_cache_lookup(
    client: httpx.AsyncClient,
) -> None:
    before = _figures((await client.get("/metrics")).text)
    path = "/api/packages/requests/recent"
    tag = (await client.get(path)).headers["etag"]
    for headers in ({}, {}, {"If-None-Match": tag}, {"If-None-Match": tag}, {}, {}):
        await client.get(path, headers=headers)
    after = _figures((await client.get("/metrics")).text)

    def grown(*key: str) -> float:
        return after[key] - before.get(key, 0)

    name = "pypi_stats_requests_total"
    assert grown(name, "miss", ENDPOINT, "200") == 1
    assert grown(name, "hit", ENDPOINT, "200") == 2
    assert grown(name, "tag_match", ENDPOINT, "304") == 2
    assert grown(name, "none", "none", "429") == 2
    assert grown("pypi_stats_rate_limited_total") == 2
    assert 0 <= after["pypi_stats_data_age_seconds",] <= 1.1 * 86400
    assert after["pypi_stats_database_connections_limit",] == 10
    in_use = "pypi_stats_database_connections"
    assert after[in_use,] == before[in_use,]


def test_each_process_returns_the_metrics_of_all(sample_url: str, tmp_path: Path) -> None:
    environment = {"DATABASE_URL": sample_url, "WORKERS": "2", "LOG_FORMAT": "json"}
    log = tmp_path / "log"
    with served(tmp_path, log, (), **environment) as (address, process):
        for _ in range(40):
            # A connection each: they are shared out among the processes.
            get(f"{address}/api/packages/requests/recent").raise_for_status()

        def figures() -> dict[tuple[str, ...], float]:
            return _figures(get(f"{address}/metrics").text)

        # Both have started, and both have counted their requests.
        wait_until(lambda: figures()["pypi_stats_database_connections_limit",] == 20)
        wait_until(lambda: _requests(figures(), ENDPOINT, 200) == 40)
        assert 0 <= figures()["pypi_stats_data_age_seconds",] <= 1.1 * 86400
        # A gauge of a worker that has ended does not count.
        started = "Application startup complete"
        process.children()[-1].kill()
        wait_until(lambda: log.read_text().count(started) == 3)
        assert figures()["pypi_stats_database_connections_limit",] == 20
        assert _requests(figures(), ENDPOINT, 200) == 40
    lines = log.read_text().splitlines()
    requests = [line for line in map(json.loads, lines) if line["event"] == "request"]
    assert len([line for line in requests if "recent" in line["path"]]) == 40


async def test_rejections_of_a_client_are_summarised(
    database_url: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    app = create_app(Settings(rate_limits="1/hour", log_format="json"), database_url)
    transport = httpx.ASGITransport(app)
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        for _ in range(16):
            await client.get("/nothing?period=day")
    LOG_STREAM.drain()
    lines = capfd.readouterr().err.splitlines()
    requests = [json.loads(line) for line in lines if "app.requests" in line]
    logged = [(request["status"], request["query"]) for request in requests]
    assert logged == [(404, "period=day")] + [(429, "")] * 10
    assert "127.0.0.1: 5 more rejections" in caplog.text


@pytest.mark.parametrize("rate_limits", ["1/hour", ""])
async def test_requests_without_a_limit_are_summarised(
    database_url: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    rate_limits: str,
) -> None:
    """Without any rate limit, all requests are logged."""
    caplog.set_level("INFO")
    app = create_app(Settings(rate_limits=rate_limits), database_url)
    transport = httpx.ASGITransport(app)
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        for _ in range(301):
            await client.get("/health")
            await client.get("/assets/none")
            await client.options("/api/packages/flask/recent", headers=preflight)
    LOG_STREAM.drain()
    lines = capfd.readouterr().err.count("[app.requests]")
    assert lines == (600 if rate_limits else 903)
    assert ("127.0.0.1: 303 more requests without a limit" in caplog.text) == bool(rate_limits)
