"""The breakdowns that a setting chooses: payloads, what is not ingested, and which releases."""

from datetime import timedelta
from itertools import product

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api import time_series
from app.domain.breakdowns import COLUMNS_OF_ONE_PACKAGE, OPTIONAL_BREAKDOWNS
from app.main import Service
from tests.api.payloads import SERIES_PAYLOADS
from tests.days import days_ago, downloads, optional_counts, publish
from tests.waiting import published, until, until_known

D0, D1, D2 = (str(days_ago(ago)) for ago in range(3))

NAMES = tuple(breakdown.name for breakdown in OPTIONAL_BREAKDOWNS)


@pytest.fixture
async def some_days(app: Service, engine: AsyncEngine) -> None:
    """All breakdowns the day before yesterday and yesterday, the installer alone today."""
    before = optional_counts(
        7,
        installer={"pip": 4, "uv": 3},
        ci={"true": 5, "null": 2},
        country={"US": 6, "null": 1},
        version={"3.1.0": 7},
        implementation={"cpython": 7},
    )
    await publish(engine, days_ago(2), downloads("flask", 7, mirrors=0, **before))
    yesterday = optional_counts(
        10,
        installer={"pip": 9, "other": 1},
        ci={"false": 10},
        country={"DE": 8, "US": 2},
        version={"3.1.0": 4, "3.0.3": 5, "other": 1},
        implementation={"cpython": 6, "pypy": 1, "other": 1, "null": 2},
    )
    numpy = downloads("numpy", 1, mirrors=0, **optional_counts(1))
    await publish(engine, days_ago(1), downloads("flask", 10, mirrors=0, **yesterday), numpy)
    new = downloads("new", 2, installer={"uv": 2})
    await publish(engine, days_ago(0), downloads("flask", 3, installer={"pip": 3}), new)
    await until(lambda: app.dispatcher.publication_watch.publication)
    await until(lambda: published(app).latest_day == days_ago(0))


def _payload(name: str, *items: tuple[str, str, int], package: str = "flask") -> str:
    data = ",".join(
        f'{{"category":"{category}","date":"{day}","downloads":{count}}}'
        for category, day, count in items
    )
    return f'{{"data":[{data}],"package":"{package}","type":"{name}_downloads"}}'


GOLDENS = {
    "installer": [("other", D1, 1), ("pip", D2, 4), ("pip", D1, 9), ("pip", D0, 3), ("uv", D2, 3)],
    "installer?installer=uv": [("uv", D2, 3)],
    "installer?installer=poetry": [],
    "installer?installer=uv&fill=zero": [("uv", D2, 3), ("uv", D1, 0), ("uv", D0, 0)],
    f"installer?start_date={D1}": [("other", D1, 1), ("pip", D1, 9), ("pip", D0, 3)],
    "ci": [("false", D1, 10), ("null", D2, 2), ("true", D2, 5)],
    "ci?ci=true": [("true", D2, 5)],
    "ci?ci=false": [("false", D1, 10)],
    "ci?ci=null": [("null", D2, 2)],
    # Today has no `ci`: it is not filled with zero.
    "ci?ci=true&fill=zero": [("true", D2, 5), ("true", D1, 0)],
    f"ci?start_date={D0}": [],
    f"ci?start_date={D0}&fill=zero": [],
    "country": [("DE", D1, 8), ("US", D2, 6), ("US", D1, 2), ("null", D2, 1)],
    "country?country=DE": [("DE", D1, 8)],
    "country?country=null": [("null", D2, 1)],
    "country?country=FR": [],
    "version": [("3.0.3", D1, 5), ("3.1.0", D2, 7), ("3.1.0", D1, 4), ("other", D1, 1)],
    "version?version=3.0.3": [("3.0.3", D1, 5)],
    "version?version=4.0": [],
    "installer?installer=UV": [("uv", D2, 3)],
    "version?version=other": [("other", D1, 1)],
    "version?version=all": [("3.0.3", D1, 5), ("3.1.0", D2, 7), ("3.1.0", D1, 4), ("other", D1, 1)],
    "implementation": [
        *(("cpython", D2, 7), ("cpython", D1, 6)),
        *(("null", D1, 2), ("other", D1, 1), ("pypy", D1, 1)),
    ],
    "implementation?implementation=pypy": [("pypy", D1, 1)],
}


@pytest.mark.usefixtures("some_days")
async def test_payloads(client: httpx.AsyncClient) -> None:
    for path, items in GOLDENS.items():
        response = await client.get(f"/api/packages/Flask/{path}")
        assert response.status_code == 200
        name = path.partition("?")[0]
        assert response.text == _payload(name, *items)
        SERIES_PAYLOADS[name].model_validate_json(response.content, strict=True, extra="forbid")


@pytest.mark.usefixtures("some_days")
async def test_breakdowns_of_all_packages(client: httpx.AsyncClient) -> None:
    for name in NAMES:
        response = await client.get(f"/api/packages/__all__/{name}?start_date={D1}&end_date={D1}")
        if name in COLUMNS_OF_ONE_PACKAGE:
            assert response.status_code == 404
            detail = (
                f"__all__ does not have the breakdown {name}, which exists only for single "
                "packages."
            )
            assert response.json()["detail"] == detail
        else:
            assert sum(item["downloads"] for item in response.json()["data"]) == 11


@pytest.mark.usefixtures("some_days")
async def test_a_package_of_other_days_has_no_item(client: httpx.AsyncClient) -> None:
    """The package is known, but none of its days has the breakdown."""
    for name in NAMES:
        response = await client.get(f"/api/packages/new/{name}")
        items = [("uv", D0, 2)] if name == "installer" else []
        payload = _payload(name, *items, package="new")
        assert (response.status_code, response.text) == (200, payload)
        assert (await client.get(f"/api/packages/never/{name}")).status_code == 404


@pytest.mark.usefixtures("known_days")
async def test_a_breakdown_that_is_not_ingested_is_a_404(
    client: httpx.AsyncClient, queries: list[str]
) -> None:
    for package, name in product(("requests", "never"), NAMES):
        response = await client.get(f"/api/packages/{package}/{name}")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"] == (
            f"No published day has the breakdown {name}. If the operator adds it to the setting "
            "INGEST_BREAKDOWNS, days that are read afterwards have it."
        )
    assert queries == []


async def test_a_breakdown_exists_once_a_day_has_it(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await publish(engine, days_ago(0), downloads("flask", 3))
    await until(lambda: app.dispatcher.publication_watch.publication)
    before = app.dispatcher.publication_watch.publication
    assert (await client.get("/api/packages/flask/ci")).status_code == 404
    await publish(engine, days_ago(0), downloads("flask", 3, ci={"true": 3}))
    await until(lambda: app.dispatcher.publication_watch.publication != before)
    response = await client.get("/api/packages/flask/ci")
    assert response.text == _payload("ci", ("true", D0, 3))


async def test_a_week_with_a_day_without_the_breakdown_is_omitted(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    """Weeks by installer need days with that breakdown. All days have Python versions."""
    monday = next(days_ago(ago) for ago in range(14, 21) if days_ago(ago).weekday() == 0)
    for passed in range(14):
        day = monday + timedelta(days=passed)
        known = {} if passed == 10 else {"installer": {"pip": 2}}
        await publish(engine, day, downloads("flask", 2, mirrors=0, **known))
    await until(
        lambda: app.dispatcher.publication_watch.publication and len(published(app).days) == 14
    )
    path = "/api/packages/flask/{}?interval=week"
    response = await client.get(path.format("installer"))
    assert response.text == _payload("installer", ("pip", str(monday), 14))
    response = await client.get(path.format("python_minor"))
    mondays = [str(monday), str(monday + timedelta(days=7))]
    assert [item["date"] for item in response.json()["data"]] == mondays


async def test_releases_with_most_downloads_are_listed_separately(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    """Over the range that is asked for; of those with as many, the first as text."""

    def day_of_releases(bonus: int) -> dict[str, int]:
        # 30 releases, of which the even ones have more on one day, and the odd ones on the other.
        return {
            f"1.{number:02}": 10 + (5 if number % 2 == bonus else 0) for number in range(30)
        } | {"other": 1}

    days = {days_ago(1): day_of_releases(0), days_ago(0): day_of_releases(1)}
    for day, counts in days.items():
        await publish(engine, day, downloads("flask", sum(counts.values()), version=counts))
    await until(
        lambda: app.dispatcher.publication_watch.publication and len(published(app).days) == 2
    )

    async def shown(query: str = "") -> dict[str, dict[str, int]]:
        response = await client.get(f"/api/packages/flask/version?{query}")
        found: dict[str, dict[str, int]] = {}
        for item in response.json()["data"]:
            found.setdefault(item["category"], {})[item["date"]] = item["downloads"]
        return found

    every = await shown()
    assert list(every) == [f"1.{number:02}" for number in range(20)] + ["other"]
    assert every["other"] == {D1: 5 * 10 + 5 * 15 + 1, D0: 5 * 10 + 5 * 15 + 1}
    today = await shown(f"start_date={D0}")
    most = [f"1.{number:02}" for number in range(1, 30, 2)]
    as_many = ["1.00", "1.02", "1.04", "1.06", "1.08"]
    assert sorted(today) == sorted([*most, *as_many, "other"])
    assert today["other"] == {D0: 10 * 10 + 1}
    everything = await shown("version=all")
    assert len(everything) == 31
    for found in (every, everything):
        for day, counts in days.items():
            assert sum(of.get(str(day), 0) for of in found.values()) == sum(counts.values())
    assert await shown("version=1.29") == {"1.29": everything["1.29"]}
    # The stored category `other`, without the releases that are summed into it above.
    assert await shown("version=other") == {"other": {D1: 1, D0: 1}}


async def test_filling_beyond_the_item_limit_is_a_422(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of items of a response is bounded, with and without zeros."""
    monkeypatch.setattr(time_series, "MAX_ITEMS", 6)
    for ago in (1, 0):
        releases = {f"{ago}.{number}": 1 for number in range(3)}
        await publish(engine, days_ago(ago), downloads("flask", 3, version=releases))
    await until(lambda: app.dispatcher.publication_watch.publication)
    await until(lambda: published(app).latest_day == days_ago(0))
    path = "/api/packages/flask/version?version=all"
    assert len((await client.get(path)).json()["data"]) == 6
    for interval in ("", "&interval=week"):
        response = await client.get(f"{path}&fill=zero{interval}")
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert error["parameter"] == "fill"
        assert error["message"].startswith("would make 12 items")
    assert (await client.get(f"{path}&fill=zero&start_date={D0}")).status_code == 200
    monkeypatch.setattr(time_series, "MAX_ITEMS", 5)
    app.dispatcher.cache._others.clear()
    bulk = "/api/bulk/overall?package=flask,__all__"
    for asked, parameter in ((path, "start_date"), (bulk, "package")):
        response = await client.get(asked)
        assert response.status_code == 422
        assert response.json()["errors"][0]["parameter"] == parameter


async def test_invented_versions_are_bounded(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    """Clients can send any version, and no package becomes unavailable by that."""
    versions = {f"{major}.{minor}": 1 for major in range(5) for minor in range(100)}
    versions |= {"3.12": 70, "null": 5}
    await publish(engine, days_ago(0), downloads("flask", versions))
    await until_known(app)
    response = await client.get("/api/packages/flask/python_minor")
    data = {one["category"]: one["downloads"] for one in response.json()["data"]}
    assert len(data) == time_series.MAX_CATEGORIES
    assert data["3.12"] == 70
    assert sum(data.values()) == sum(versions.values())
    assert data["null"] == sum(versions.values()) - 70 - 248
    one = await client.get("/api/packages/flask/python_minor?version=4.99")
    assert [item["downloads"] for item in one.json()["data"]] == [1]
