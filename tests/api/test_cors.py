"""Browsers call the API from anywhere."""

import httpx
import pytest
from fastapi import FastAPI

from app.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings(rate_limits="2/hour")


async def test_every_answer_is_for_every_page(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an Origin and without, so that a cache in front keeps one answer for all."""

    async def fail(_: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app.state.repository, "recent", fail)
    paths = {"/api/status": 200, "/api/packages/flask/recent": 500, "/api/x": 429, "/x": 404}
    for path, status in paths.items():
        response = await client.get(path, headers={"Origin": "https://example.com"})
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "*"
        exposed = response.headers["access-control-expose-headers"].lower().split(", ")
        assert {"retry-after", "x-ratelimit-remaining"} <= set(exposed)
        assert "origin" not in response.headers.get("vary", "").lower()
    response = await client.get("/health")
    assert response.headers["access-control-allow-origin"] == "*"


async def test_preflights_are_answered_and_not_counted(client: httpx.AsyncClient) -> None:
    for _ in range(5):
        response = await client.options(
            "/api/status",
            headers={
                "Origin": "https://example.com",
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "x-requested-with",
            },
        )
        assert response.status_code == 204
        assert response.headers["access-control-allow-origin"] == "*"
        assert response.headers["access-control-allow-headers"] == "*"
        assert "GET" in response.headers["access-control-allow-methods"]
    response = await client.get("/api/status")
    assert response.headers["x-ratelimit-remaining"] == "1"
