"""Changes since a publish."""

from datetime import datetime
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.changes import EPOCH, version_of
from app.main import Service
from tests.days import days_ago, downloads, publish
from tests.waiting import until


async def _changes(client: httpx.AsyncClient, since: str = "") -> dict[str, Any]:
    response = await client.get(f"/api/changes?since={since}")
    assert response.status_code == 200, response.text
    return dict(response.json())


def _days(changes: dict[str, Any]) -> list[str]:
    return [one["day"] for one in changes["data"]["days"]]


@pytest.mark.usefixtures("known_days")
async def test_each_change_is_listed_once(
    engine: AsyncEngine, app: Service, client: httpx.AsyncClient
) -> None:
    first = await _changes(client)
    assert _days(first) == [str(days_ago(0)), str(days_ago(1))]
    assert (first["since"], first["data"]["months"], first["type"]) == (None, [], "changes")
    assert first["first_day"] == str(days_ago(179))
    assert first["next"] == max(
        version_of(datetime.fromisoformat(one["published_at"])) for one in first["data"]["days"]
    )
    same = await _changes(client, first["next"])
    assert (_days(same), same["since"], same["next"]) == ([], first["next"], first["next"])

    # A replaced day, and an earlier day that is new.
    for ago in (1, 5):
        await publish(engine, days_ago(ago), downloads("requests", 9))
    watch = app.dispatcher.publication_watch
    await until(lambda: watch.publication and len(watch.publication.days) == 3)
    second = await _changes(client, first["next"])
    assert _days(second) == [str(days_ago(1)), str(days_ago(5))]
    assert int(second["next"]) > int(first["next"])
    third = await _changes(client, second["next"])
    assert _days(third) == []
    digests = {one["day"]: one["digest"] for one in (await _changes(client))["data"]["days"]}
    assert len(digests) == 3
    assert digests[str(days_ago(1))] == second["data"]["days"][0]["digest"]


@pytest.mark.usefixtures("known_days")
async def test_an_unknown_version_lists_everything(client: httpx.AsyncClient) -> None:
    """After a restore, the database is older than the client."""
    latest = (await _changes(client))["next"]
    changes = await _changes(client, str(int(latest) + 1))
    assert (changes["since"], len(_days(changes))) == (None, 2)
    changes = await _changes(client, "0")
    assert (changes["since"], len(_days(changes))) == ("0", 2)


@pytest.mark.parametrize("since", ["x", "-1", "1.5", "2026-11-20", "1" * 18, "%00"])
@pytest.mark.usefixtures("known_days")
async def test_a_malformed_version(client: httpx.AsyncClient, since: str) -> None:
    response = await client.get(f"/api/changes?since={since}")
    assert response.status_code == 422
    message = "should be the next of an earlier response"
    assert response.json()["errors"] == [{"parameter": "since", "message": message}]


@pytest.mark.usefixtures("known_days")
async def test_responses_are_cached_and_tagged(
    client: httpx.AsyncClient, queries: list[str]
) -> None:
    latest = (await _changes(client))["next"]
    await _changes(client, latest)
    before = len(queries)
    response = await client.get("/api/changes")
    await _changes(client, latest)
    assert len(queries) == before
    tag = response.headers["etag"]
    assert (await client.get("/api/changes", headers={"If-None-Match": tag})).status_code == 304


def test_version_of_a_publish() -> None:
    assert version_of(EPOCH) == "0"
