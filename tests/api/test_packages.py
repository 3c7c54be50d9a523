"""The documented endpoints: every payload to the byte, every argument, every kind of name."""

from itertools import product

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.main import create_app
from app.settings import Settings
from tests.api.payloads import SERIES_PAYLOADS
from tests.days import days_ago, downloads, publish

ENDPOINTS = ("recent", "overall", "python_major", "python_minor", "system")

D0, D1 = str(days_ago(0)), str(days_ago(1))


def _series(*items: tuple[str, str, int]) -> str:
    return ",".join(
        f'{{"category":"{category}","date":"{date}","downloads":{downloads}}}'
        for category, date, downloads in items
    )


SERIES = {
    "overall": [
        *(("with_mirrors", D1, 54321), ("with_mirrors", D0, 328)),
        *(("without_mirrors", D1, 4321), ("without_mirrors", D0, 322)),
    ],
    "overall?mirrors=true": [("with_mirrors", D1, 54321), ("with_mirrors", D0, 328)],
    "overall?mirrors=false": [("without_mirrors", D1, 4321), ("without_mirrors", D0, 322)],
    "python_major": [("2", D1, 1), ("3", D1, 320), ("3", D0, 322), ("null", D1, 4000)],
    "python_major?version=2": [("2", D1, 1)],
    "python_minor": [
        *(("2.7", D1, 1), ("3.10", D1, 300), ("3.10", D0, 301)),
        *(("3.9", D1, 20), ("3.9", D0, 21), ("null", D1, 4000)),
    ],
    "python_minor?version=null": [("null", D1, 4000)],
    "python_minor?version=4.2": [],
    "system": [
        *(("darwin", D1, 20), ("linux", D1, 300), ("linux", D0, 302)),
        *(("null", D1, 1), ("other", D0, 20), ("windows", D1, 4000)),
    ],
    "system?os=other": [("other", D0, 20)],
    "system?os=null": [("null", D1, 1)],
}
RECENT = {
    "recent": '{"last_day":322,"last_month":4643,"last_week":4643}',
    "recent?period=day": '{"last_day":322}',
    "recent?&period=week": '{"last_week":4643}',
    "recent?period=month&period=month&unknown=1&unknown=2&os=x&os=y": '{"last_month":4643}',
}
DATA = RECENT | {path: f"[{_series(*items)}]" for path, items in SERIES.items()}
GOLDENS = {
    path: f'{{"data":{data},"package":"zope-interface","type":"{path.split("?")[0]}_downloads"}}'
    for path, data in DATA.items()
}


@pytest.mark.usefixtures("two_days")
async def test_payloads(client: httpx.AsyncClient) -> None:
    for path, golden in GOLDENS.items():
        response = await client.get(f"/api/packages/zope-interface/{path}")
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert response.text == golden
        # The documented schema is that of the payload.
        model = SERIES_PAYLOADS[path.partition("?")[0]]
        model.model_validate_json(response.content, strict=True, extra="forbid")


@pytest.mark.usefixtures("known_days")
async def test_head_returns_the_headers_of_get(client: httpx.AsyncClient) -> None:
    for path in (*ENDPOINTS, "recent?period=year", "nothing"):
        got = await client.get(f"/api/packages/zope-interface/{path}")
        response = await client.head(f"/api/packages/zope-interface/{path}")
        assert response.content == b""
        # Each request has an id of its own, and so has its response.
        assert response.headers.pop("x-request-id") != got.headers.pop("x-request-id")
        assert (response.status_code, response.headers) == (got.status_code, got.headers)
        assert int(response.headers["content-length"]) == len(got.content)


@pytest.mark.usefixtures("two_days")
async def test_any_spelling_is_answered_directly(client: httpx.AsyncClient) -> None:
    names = ("zope.interface", "Zope_Interface", "ZOPE.-_INTERFACE", "zope%2Einterface")
    for name, endpoint in product(names, ENDPOINTS):
        response = await client.get(f"/api/packages/{name}/{endpoint}")
        assert response.status_code == 200
        assert response.text == GOLDENS[endpoint]


@pytest.mark.usefixtures("two_days")
async def test_all_packages(client: httpx.AsyncClient) -> None:
    answers = {
        endpoint: (await client.get(f"/api/packages/__all__/{endpoint}")).json()
        for endpoint in ENDPOINTS
    }
    assert {answer["package"] for answer in answers.values()} == {"__all__"}
    assert answers["recent"]["data"] == {"last_day": 329, "last_month": 4650, "last_week": 4650}
    assert answers["overall"]["data"] == [
        {"category": "with_mirrors", "date": D1, "downloads": 54324},
        {"category": "with_mirrors", "date": D0, "downloads": 335},
        {"category": "without_mirrors", "date": D1, "downloads": 4321},
        {"category": "without_mirrors", "date": D0, "downloads": 329},
    ]
    for endpoint in ("python_major", "python_minor", "system"):
        items = answers[endpoint]["data"]
        for day, total in ((D1, 4321), (D0, 329)):
            assert sum(item["downloads"] for item in items if item["date"] == day) == total


@pytest.mark.usefixtures("two_days")
async def test_a_package_that_only_mirrors_downloaded(client: httpx.AsyncClient) -> None:
    base = "/api/packages/mirrored-only"
    recent = (await client.get(f"{base}/recent")).json()["data"]
    assert recent == {"last_day": 0, "last_month": 0, "last_week": 0}
    assert (await client.get(f"{base}/overall")).json()["data"] == [
        {"category": "with_mirrors", "date": D1, "downloads": 3}
    ]
    for endpoint in ("overall?mirrors=false", "python_major", "python_minor", "system"):
        response = await client.get(f"{base}/{endpoint}")
        assert (response.status_code, response.json()["data"]) == (200, [])


@pytest.mark.usefixtures("two_days")
async def test_unknown_package(client: httpx.AsyncClient) -> None:
    odd = ("a%00b", "%00", "-flask", "flask%20", "%F0%9F%90%8D", "%FF", "' OR 1=1 --", "...")
    for name, endpoint in product(("reqeusts", "__ALL__", "a" * 10_000, *odd), ENDPOINTS):
        response = await client.get(f"/api/packages/{name}/{endpoint}")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert (problem["status"], problem["title"]) == (404, "Not Found")
        assert "package" in problem["detail"]
        assert len(response.content) < 1000


async def test_unknown_path(client: httpx.AsyncClient) -> None:
    for path in ("packages/a%2Fb/recent", "packages//recent", "packages/flask/recent/", "x"):
        response = await client.get(f"/api/{path}")
        assert response.status_code == 404
        detail = "There is nothing at this path: /docs lists all paths."
        assert response.json()["detail"] == detail


@pytest.mark.usefixtures("two_days")
async def test_an_unknown_version_matches_nothing(client: httpx.AsyncClient) -> None:
    versions = ("%00", "%FF", "x" * 10_000, "3.12' OR '1'='1")
    for version, endpoint in product(versions, ("python_major", "python_minor")):
        response = await client.get(f"/api/packages/requests/{endpoint}?version={version}")
        assert (response.status_code, response.json()["data"]) == (200, [])


async def test_last_day_is_the_latest_published_one(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    """However long ago that is: a day that has not arrived is not a day without downloads."""
    await publish(engine, days_ago(20), downloads("requests", 5))
    await publish(engine, days_ago(26), downloads("requests", 30))
    await publish(engine, days_ago(27), downloads("requests", 100))
    response = await client.get("/api/packages/requests/recent")
    assert response.json()["data"] == {"last_day": 5, "last_month": 135, "last_week": 35}


async def test_the_window_is_a_setting(database_url: str, engine: AsyncEngine) -> None:
    await publish(engine, days_ago(30), downloads("requests", 5), downloads("gone", 5))
    await publish(engine, days_ago(29), downloads("requests", 30))
    await publish(engine, days_ago(0), downloads("requests", 1))
    app = create_app(Settings(rate_limits="", retention_days=30), database_url)
    async with (
        app.running(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        response = await client.get("/api/packages/requests/overall?mirrors=false")
        assert [item["date"] for item in response.json()["data"]] == [str(days_ago(29)), D0]
        assert (await client.get("/api/packages/gone/recent")).status_code == 404
