"""What every answer says: browsers may call the API from anywhere, and do nothing else with it."""

import httpx
import pytest

from app.main import Service
from app.settings import Settings
from tests.days import days_ago

EXPOSED = {
    "accept-ranges",
    "age",
    "content-range",
    "etag",
    "retry-after",
    "x-data-as-of",
    "x-data-source",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
}


@pytest.fixture
def settings() -> Settings:
    return Settings(rate_limits="4/hour")


@pytest.mark.parametrize("settings", [Settings(rate_limits="6/hour")])
async def test_pages_of_all_origins_may_read_responses(
    app: Service, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an Origin and without, so that a cache in front keeps one answer for all."""

    async def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app.state.statistics.downloads, "publication", fail)
    paths = {"/api/dumps": 200, "/api/packages/flask/recent": 500, "/x": 404, "/": 429}
    for path, status in paths.items():
        for method in ("GET", "HEAD"):
            response = await client.request(method, path, headers={"Origin": "https://example.com"})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == "*"
            exposed = response.headers["access-control-expose-headers"].lower().split(", ")
            assert set(exposed) == EXPOSED
            assert "origin" not in response.headers.get("vary", "").lower()
    response = await client.get("/health")
    assert response.headers["access-control-allow-origin"] == "*"


async def test_responses_have_security_headers(client: httpx.AsyncClient) -> None:
    for path in ("/", "/api/status", "/api/nothing", "/openapi.json", "/metrics"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["cache-control"] == "no-cache"
        assert "server" not in headers


async def test_pages_of_other_origins_cannot_read_the_metrics(client: httpx.AsyncClient) -> None:
    headers = {"Origin": "https://example.com", "Access-Control-Request-Method": "GET"}
    statuses = {"GET": 200, "HEAD": 200, "OPTIONS": 204, "POST": 405}
    for path in ("/metrics", "/%6Detrics", "/metrics?x=1"):
        for method, status in statuses.items():
            response = await client.request(method, path, headers=headers)
            assert response.status_code == status
            allowed = [name for name in response.headers if "access-control-allow-o" in name]
            assert not allowed
            assert response.headers["x-content-type-options"] == "nosniff"


async def test_preflights_are_answered_and_not_counted(client: httpx.AsyncClient) -> None:
    for _ in range(5):
        response = await client.options(
            "/api/status",
            headers={
                "Origin": "https://example.com",
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "if-none-match",
            },
        )
        assert response.status_code == 204
        assert response.headers["access-control-allow-origin"] == "*"
        assert response.headers["access-control-allow-headers"] == "*, Authorization"
        assert response.headers["access-control-allow-methods"] == "GET, HEAD"
    response = await client.get("/api/status")
    assert response.headers["x-ratelimit-remaining"] == "3"


@pytest.mark.usefixtures("known_days")
async def test_every_response_has_the_latest_day(client: httpx.AsyncClient) -> None:
    for path, status in (
        ("/api/packages/requests/recent", 200),
        ("/api/packages/reqeusts/recent", 404),
        ("/api/packages/requests/recent?period=year", 422),
        ("/api/nothing", 404),
        # The limit is 4 an hour.
        ("/api/status", 429),
        ("/health", 200),
    ):
        response = await client.get(path)
        assert response.status_code == status
        assert response.headers.get_list("x-data-as-of") == [str(days_ago(0))]
