"""Responses of an instance that follows only some packages."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.ingest.followed import forget_unfollowed
from app.ingest.publish import PublishContext
from app.main import Service
from tests.clock import NOW
from tests.days import FORCED, GivenSource, days_ago, downloads, ingest
from tests.waiting import until


async def _follow(engine: AsyncEngine, app: Service, *names: str) -> None:
    for ago in reversed(range(14)):
        flask = downloads("flask", 20_000 if ago < 7 else 10_000)
        rows = [flask, downloads("requests", 10_000)]
        source = GivenSource({days_ago(ago): rows})
        await ingest(engine, source, days_ago(ago), replace(FORCED, followed=" ".join(names)))
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication and len(known.publication.days) == 14)


async def _get(client: httpx.AsyncClient, path: str, status: int = 200) -> Any:
    response = await client.get(path)
    assert response.status_code == status, response.text
    return response.json()


async def test_what_refers_to_all_packages(
    engine: AsyncEngine, app: Service, client: httpx.AsyncClient
) -> None:
    await _follow(engine, app, "flask", "idle", "requests")
    recent = await _get(client, "/api/packages/Flask/recent")
    assert recent["data"] == {"last_day": 20_000, "last_month": 210_000, "last_week": 140_000}
    only = "this instance follows only these packages: flask, idle, requests."
    for package, what in (("__all__", "all packages together"), ("Django", "'django'")):
        for path in (
            *(f"packages/{package}{end}" for end in ("", "/recent", "/overall", "/system")),
            *(f"packages/{package}/system/total", f"badges/{package}/month"),
        ):
            error = await _get(client, f"/api/{path}", 404)
            assert error["detail"] == f"There are no figures of {what}: {only}"
    error = await _get(client, "/api/packages/idle/recent", 404)
    assert error["detail"] == "There is no package 'idle' with downloads in the days served."
    bulk = await _get(client, "/api/bulk/recent?package=flask&package=__all__&package=django")
    assert bulk["missing"] == ["__all__", "django"]

    top = await _get(client, "/api/top?period=day")
    assert top == {
        "data": [
            {"downloads": 20_000, "package": "flask", "rank": 1, "share": None},
            {"downloads": 10_000, "package": "requests", "rank": 2, "share": None},
        ],
        "days": 1,
        "followed_packages": 3,
        "since": str(days_ago(0)),
        "through": str(days_ago(0)),
        "type": "top_packages",
    }
    table = await client.get("/api/top?period=day&format=csv")
    assert table.text == "downloads,package,rank,share\r\n20000,flask,1,\r\n10000,requests,2,\r\n"
    trending = await _get(client, "/api/trending")
    assert trending["followed_packages"] == 3
    assert [one["package"] for one in trending["data"]] == ["flask"]
    summary = await _get(client, "/api/packages/flask")
    assert summary["data"]["rank"] is None
    found = await _get(client, "/api/search?q=flas")
    assert found["data"] == [{"last_month": 210_000, "package": "flask", "rank": None}]
    status = await _get(client, "/api/status")
    assert status["followed"] == ["flask", "idle", "requests"]


async def test_an_error_does_not_list_many_packages(
    engine: AsyncEngine, app: Service, client: httpx.AsyncClient
) -> None:
    await _follow(engine, app, "flask", "requests", *(f"z{number}" for number in range(50)))
    error = await _get(client, "/api/packages/django/recent", 404)
    assert error["detail"] == (
        "There are no figures of 'django': this instance follows only 52 packages, which "
        "/api/status lists."
    )


async def test_all_names_are_replaced(
    engine: AsyncEngine, app: Service, client: httpx.AsyncClient
) -> None:
    """Until a day of the new names is published, the stored days have no packages."""
    await _follow(engine, app, "flask", "requests")
    policy = replace(FORCED, followed="numpy")
    await forget_unfollowed(PublishContext(engine, policy, lambda: NOW), is_forced=True)
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication and known.publication.followed == ())
    for ranking in ("top", "trending"):
        found = await _get(client, f"/api/{ranking}")
        assert (found["data"], found["followed_packages"]) == ([], 0)
    for package in ("flask", "numpy"):
        error = await _get(client, f"/api/packages/{package}/recent", 404)
        assert error["detail"] == (
            f"There are no figures of '{package}': this instance follows packages whose days are "
            "not published yet."
        )
    assert (await _get(client, "/api/status"))["followed"] == []


@pytest.mark.usefixtures("known_days")
async def test_an_instance_with_all_packages(client: httpx.AsyncClient) -> None:
    assert (await _get(client, "/api/top"))["followed_packages"] is None
    assert (await _get(client, "/api/trending"))["followed_packages"] is None
    assert (await _get(client, "/api/status"))["followed"] is None
