"""Known breaks in the figures, as they are answered."""

from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.events import Events
from app.domain.events import Event, EventKind
from app.main import Service, create_app
from app.settings import IngestSource, Settings
from tests.days import days_ago, downloads, publish
from tests.waiting import published, until

OUTAGE = Event(
    date=days_ago(3),
    end_date=days_ago(2),
    kind=EventKind.OUTAGE,
    summary="Our own.",
    url="https://stats.example/outage",
)
BEFORE_THE_WINDOW = OUTAGE.model_copy(
    update={"date": days_ago(500), "end_date": days_ago(180), "summary": "Long ago."}
)


@pytest.fixture
def settings() -> Settings:
    return Settings(
        rate_limits="",
        ingest_source=IngestSource.NONE,
        ingest_events_file=(BEFORE_THE_WINDOW, OUTAGE),
    )


def _dumped(event: Event) -> dict[str, Any]:
    return event.model_dump(mode="json")


async def test_events_are_newest_first(client: httpx.AsyncClient) -> None:
    """Events are listed even if nothing is published."""
    response = await client.get("/api/events")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = Events.model_validate_json(response.content, strict=True, extra="forbid")
    assert {OUTAGE, BEFORE_THE_WINDOW} < set(answer.data)
    dates = [event.date for event in answer.data]
    assert dates == sorted(dates, reverse=True)
    assert response.json()["data"][0] == {
        "date": str(days_ago(3)),
        "end_date": str(days_ago(2)),
        "kind": "outage",
        "summary": "Our own.",
        "url": "https://stats.example/outage",
    }
    assert list(response.json()) == ["data", "type"]


@pytest.mark.usefixtures("known_days")
async def test_events_may_be_cached(client: httpx.AsyncClient, queries: list[str]) -> None:
    response = await client.get("/api/events")
    assert response.headers["cache-control"] == "public, max-age=3600"
    assert queries == []


async def test_status_and_summaries_list_events_in_the_window(
    client: httpx.AsyncClient, app: Service, engine: AsyncEngine
) -> None:
    assert (await client.get("/api/status")).json()["events"] == []
    await publish(engine, days_ago(1), downloads("flask", 1))
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication)
    status = (await client.get("/api/status")).json()
    summary = (await client.get("/api/packages/flask")).json()
    assert status["events"] == summary["data"]["events"]
    assert _dumped(OUTAGE) in status["events"]
    assert _dumped(BEFORE_THE_WINDOW) in status["events"], "the window ended yesterday"
    await publish(engine, days_ago(0), downloads("flask", 1))
    await until(lambda: published(app).latest_day == days_ago(0))
    status = (await client.get("/api/status")).json()
    summary = (await client.get("/api/packages/flask")).json()
    assert status["events"] == summary["data"]["events"]
    assert _dumped(OUTAGE) in status["events"]
    assert _dumped(BEFORE_THE_WINDOW) not in status["events"]


@pytest.mark.usefixtures("known_days")
async def test_events_are_part_of_the_tag(client: httpx.AsyncClient, database_url: str) -> None:
    """After a restart with other events, a client's copy is not confirmed."""
    other = create_app(Settings(rate_limits="", ingest_source=IngestSource.NONE), database_url)
    async with other.running():
        await until(lambda: other.dispatcher.publication_watch.publication)
        transport = httpx.ASGITransport(other)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as its:
            path = "/api/packages/requests"
            tag = (await its.get(path)).headers["etag"]
            assert (await client.get(path, headers={"If-None-Match": tag})).status_code == 200


async def test_the_first_value_of_a_repeated_argument_counts(client: httpx.AsyncClient) -> None:
    for query, status in (("format=json&format=csv", 200), ("format=csv&format=json", 422)):
        assert (await client.get(f"/api/events?{query}")).status_code == status
