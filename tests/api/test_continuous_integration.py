"""Downloads without those by continuous integration."""

from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.main import Service
from tests.days import days_ago, downloads, optional_counts, publish
from tests.waiting import until_known

D0, D8, D40 = (str(days_ago(ago)) for ago in (0, 8, 40))


@pytest.fixture
async def some_days(app: Service, engine: AsyncEngine) -> None:
    """The day 40 days ago has no `ci`. All downloads of `robot` are by continuous integration."""
    await publish(engine, days_ago(40), downloads("flask", 1000))
    for ago, ci in ((8, {"true": 4, "null": 5, "false": 1}), (3, {"true": 9}), (0, {"null": 7})):
        count = sum(ci.values())
        row = downloads("flask", count, mirrors=50, **optional_counts(count, ci=ci))
        robot = downloads("robot", 3, mirrors=0, **optional_counts(3, ci={"true": 3}))
        await publish(engine, days_ago(ago), row, robot)
    await until_known(app)


async def _json(client: httpx.AsyncClient, path: str, status: int = 200) -> Any:
    response = await client.get(f"/api/{path}")
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.usefixtures("some_days")
async def test_recent(client: httpx.AsyncClient) -> None:
    for package, day, month in (("flask", 7, 13), ("robot", 0, 0), ("__all__", 7, 13)):
        content = await _json(client, f"packages/{package}/recent?ci=False")
        assert content["data"] == {"last_day": day, "last_month": month, "last_week": day}
        assert content["type"] == "recent_downloads"
    content = await _json(client, "packages/flask/recent?ci=false&period=month")
    assert content["data"] == {"last_month": 13}
    content = await _json(client, "bulk/recent?package=flask,robot,none&ci=false&sum=true")
    assert content["data"][0]["data"]["last_month"] == 13
    assert content["missing"] == ["none"]
    assert (await _json(client, "packages/flask/recent"))["data"]["last_month"] == 26
    await _json(client, "packages/none/recent?ci=false", 404)


@pytest.mark.usefixtures("some_days")
async def test_overall(client: httpx.AsyncClient) -> None:
    items = [
        {"category": "without_mirrors", "date": D8, "downloads": 6},
        {"category": "without_mirrors", "date": D0, "downloads": 7},
    ]
    for query in ("ci=false", "ci=false&mirrors=false"):
        assert (await _json(client, f"packages/flask/overall?{query}"))["data"] == items
    zeros = await _json(client, "packages/flask/overall?ci=false&fill=zero")
    # The day without `ci` is unknown.
    assert [item["downloads"] for item in zeros["data"]] == [6, 0, 7]
    ranged = await _json(client, f"packages/flask/overall?ci=false&start_date={D0}")
    assert ranged["data"] == items[1:]
    assert (await _json(client, "packages/robot/overall?ci=false"))["data"] == []
    bulk = await _json(client, "bulk/overall?package=flask,robot&ci=false")
    assert [one["data"] for one in bulk["data"]] == [items, []]
    error = await _json(client, "packages/flask/overall?ci=false&mirrors=true", 422)
    assert error["errors"] == [
        {"parameter": "ci", "message": "can't be combined with mirrors=true"}
    ]
    # The breakdown's own argument selects one of its categories.
    categories = await _json(client, "packages/flask/ci?ci=false")
    assert [item["downloads"] for item in categories["data"]] == [1]


@pytest.mark.usefixtures("some_days")
async def test_badges(client: httpx.AsyncClient) -> None:
    assert (await _json(client, "badges/flask/month?ci=false"))["message"] == "13/month"
    assert (await _json(client, "badges/flask/month"))["message"] == "26/month"
    assert (await _json(client, "badges/robot/day?ci=false"))["message"] == "0/day"
    error = await _json(client, "badges/flask/total?ci=false", 422)
    assert error["errors"][0]["parameter"] == "ci"


@pytest.mark.usefixtures("some_days")
@pytest.mark.parametrize(
    "path", ["packages/flask/recent", "packages/flask/overall", "badges/flask/day"]
)
async def test_only_false_excludes_anything(client: httpx.AsyncClient, path: str) -> None:
    for value in ("true", "null", "0"):
        error = await _json(client, f"{path}?ci={value}", 422)
        assert error["errors"] == [{"parameter": "ci", "message": "Input should be 'false'"}]
    assert await _json(client, f"{path}?ci=") == await _json(client, path)


@pytest.mark.usefixtures("some_days")
async def test_periods_with_days_without_the_breakdown(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await publish(engine, days_ago(5), downloads("flask", 1000))
    await until_known(app)
    detail = (
        "Downloads without continuous integration are unknown, because days were ingested without "
        f"the breakdown ci: {days_ago(5)}."
    )
    for path in ("packages/flask/recent", "badges/flask/week", "bulk/recent"):
        error = await _json(client, f"{path}?ci=false&package=flask", 404)
        assert error["detail"] == detail
    content = await _json(client, "packages/flask/recent?ci=false&period=day")
    assert content["data"] == {"last_day": 7}


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize(
    "path",
    [
        "packages/requests/recent",
        "packages/requests/overall",
        "badges/requests/day",
        "bulk/recent",
        "bulk/overall",
    ],
)
async def test_an_instance_without_the_breakdown(client: httpx.AsyncClient, path: str) -> None:
    error = await _json(client, f"{path}?ci=false&package=requests", 404)
    assert error["detail"].startswith("No published day has the breakdown ci.")
