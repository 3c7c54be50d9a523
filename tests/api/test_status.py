import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from app.ingest import pipeline
from app.ingest.sample import PACKAGES
from tests.days import days_ago, downloads, publish


async def test_status_of_an_empty_database(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/status")
    assert response.json() == {
        "sample": False,
        "sources": [],
        "first_day": None,
        "latest_day": None,
        "published_at": None,
        "days": 0,
        "gaps": [],
        "packages": 0,
        "downloads": 0,
    }


async def test_status_tells_what_is_held(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await publish(engine, days_ago(4), downloads("flask", 1))
    await publish(engine, days_ago(1), downloads("flask", 2))
    await publish(engine, days_ago(0), downloads("flask", 3, mirrors=9), downloads("numpy", 4))
    status = (await client.get("/api/status")).json()
    assert status.pop("published_at") is not None
    assert status == {
        "sample": False,
        "sources": ["given"],
        "first_day": str(days_ago(4)),
        "latest_day": str(days_ago(0)),
        "days": 3,
        "gaps": [str(days_ago(3)), str(days_ago(2))],
        "packages": 2,
        "downloads": 7,
    }


async def test_status_says_that_the_sample_is_one(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    async for _ in pipeline.seed(engine, [days_ago(0)], retention_days=180):
        pass
    status = (await client.get("/api/status")).json()
    assert (status["sample"], status["sources"]) == (True, ["sample"])
    assert status["packages"] == len(PACKAGES) == 200


async def test_health_needs_no_database(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}
