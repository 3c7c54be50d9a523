from time import time

import httpx
import pytest

from app.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings(rate_limits="3/hour;100/day")


async def test_one_budget_for_all_that_a_client_asks(client: httpx.AsyncClient) -> None:
    paths = ["/api/status", "/api/packages/flask/recent", "/api/nothing"]
    answers = [await client.get(path) for path in paths]
    assert [answer.status_code for answer in answers] == [200, 503, 404]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0"]
    assert answers[0].headers["x-ratelimit-limit"] == "3"
    for answer in answers:
        assert 0 < int(answer.headers["x-ratelimit-reset"]) - time() <= 3601
    # Only what can be had later says when: here the 503 of a database without data.
    waits = [answer.headers.get("retry-after") for answer in answers]
    assert waits == [None, "300", None]

    limited = await client.get("/api/packages/numpy/system")
    assert limited.status_code == 429
    assert limited.headers["content-type"] == "application/problem+json"
    assert limited.json()["title"] == "Too Many Requests"
    assert "3 per 1 hour" in limited.json()["detail"]
    assert 0 < int(limited.headers["retry-after"]) <= 3601

    assert (await client.get("/health")).status_code == 200
