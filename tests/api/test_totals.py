"""Sums of time series over a range of days, by category, with their shares."""

import csv
from collections import Counter
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.totals import SeriesTotal
from app.domain.breakdowns import BREAKDOWNS, COLUMNS_OF_ONE_PACKAGE
from app.main import Service
from tests.days import days_ago, downloads, optional_counts, publish
from tests.waiting import until_known

SERIES = ("overall", *(one.name for one in BREAKDOWNS))


@pytest.fixture(autouse=True)
async def _days(app: Service, engine: AsyncEngine) -> None:
    """Three days with gaps between them. The package `quiet` has downloads only on the first."""
    for ago in (9, 3, 0):
        minors = {"3.12": 10 + ago, "3.9": 5, "null": 1}
        row = downloads("flask", minors, mirrors=ago, **optional_counts(sum(minors.values())))
        quiet = [downloads("quiet", 1, mirrors=0, **optional_counts(1))] if ago == 9 else []
        await publish(engine, days_ago(ago), row, *quiet)
    await until_known(app)


async def _data(client: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    response = await client.get(f"/api/packages/{path}")
    assert response.status_code == 200, response.text
    data: list[dict[str, Any]] = response.json()["data"]
    return data


async def test_the_payload_of_overall(client: httpx.AsyncClient) -> None:
    response = await client.get(f"/api/packages/Flask/overall/total?start_date={days_ago(3)}")
    assert response.text == (
        '{"data":[{"category":"with_mirrors","downloads":38,"share":1.0},'
        '{"category":"without_mirrors","downloads":35,"share":0.9211}],'
        '"package":"flask","type":"overall_total"}'
    )


async def test_the_payload_of_a_breakdown(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/packages/flask/python_minor/total")
    assert response.text == (
        '{"data":[{"category":"3.12","downloads":42,"share":0.7},'
        '{"category":"3.9","downloads":15,"share":0.25},'
        '{"category":"null","downloads":3,"share":0.05}],'
        '"package":"flask","type":"python_minor_total"}'
    )


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("package", ["flask", "__all__"])
async def test_totals_are_the_sums_of_the_series(
    client: httpx.AsyncClient, name: str, package: str
) -> None:
    if name in COLUMNS_OF_ONE_PACKAGE and package == "__all__":
        assert (await client.get(f"/api/packages/__all__/{name}/total")).status_code == 404
        return
    for days in ("", f"?start_date={days_ago(3)}", f"?end_date={days_ago(1)}"):
        sums: Counter[object] = Counter()
        for item in await _data(client, f"{package}/{name}{days}"):
            sums[item["category"]] += item["downloads"]
        response = await client.get(f"/api/packages/{package}/{name}/total{days}")
        SeriesTotal.model_validate_json(response.content, strict=True, extra="forbid")
        data = response.json()["data"]
        assert {one["category"]: one["downloads"] for one in data} == sums
        assert data == sorted(data, key=lambda one: (-one["downloads"], one["category"]))
        whole = sums["with_mirrors"] if name == "overall" else sums.total()
        assert [one["share"] for one in data] == [
            round(one["downloads"] / whole, 4) for one in data
        ]


async def test_a_known_package_without_downloads_in_the_range(client: httpx.AsyncClient) -> None:
    for name in SERIES:
        assert await _data(client, f"quiet/{name}/total?start_date={days_ago(1)}") == []
        response = await client.get(f"/api/packages/unknown/{name}/total")
        assert response.status_code == 404


async def test_csv(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/packages/flask/python_minor/total?format=csv")
    assert list(csv.reader(response.text.splitlines())) == [
        ["category", "downloads", "share"],
        ["3.12", "42", "0.7"],
        ["3.9", "15", "0.25"],
        ["null", "3", "0.05"],
    ]
