"""Errors that no endpoint means to give."""

import httpx
import pytest
from fastapi import FastAPI

from app.api.schemas import Problem
from app.main import create_app
from app.settings import Settings
from tests.processes import free_port


def _check(response: httpx.Response, status: int) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.content, strict=True, extra="forbid")
    assert problem.status == status
    assert "Traceback" not in response.text


async def test_method_not_allowed(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/packages/flask/recent")
    _check(response, 405)
    assert response.headers["allow"] == "GET, HEAD"


async def test_what_nobody_thought_of_tells_nothing(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: str) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(app.state.repository, "recent", fail)
    response = await client.get("/api/packages/flask/recent")
    _check(response, 500)
    assert "secret" not in response.text


async def test_a_database_that_is_not_there(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    app = create_app(settings, f"postgresql://somebody:secret@127.0.0.1:{port}/stats")
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        for path in ("packages/flask/recent", "packages/flask/system", "status"):
            response = await client.get(f"/api/{path}")
            _check(response, 503)
            assert int(response.headers["retry-after"]) > 0
            for inner in (str(port), "127.0.0.1", "somebody", "secret"):
                assert inner not in response.text
        assert (await client.get("/health")).status_code == 200
    # Who runs the service is told what the client is not.
    assert "the database at 127.0.0.1 can't be reached: " in caplog.text
    assert "secret" not in caplog.text
