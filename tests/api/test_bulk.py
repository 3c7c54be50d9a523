"""Many packages in one answer: each as if it were asked alone."""

from collections import Counter
from itertools import product
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api import bulk, time_series
from app.api.bulk import MAX_PACKAGES
from app.domain.breakdowns import BREAKDOWNS, COLUMNS_OF_ONE_PACKAGE
from app.main import Service
from tests.api.payloads import PAYLOADS
from tests.days import days_ago, downloads, optional_counts, publish
from tests.waiting import until_known

D0, D1 = days_ago(0), days_ago(1)

GOLDENS = {
    "recent?package=Requests&package=reqeusts&package=zope.interface": (
        '{"data":['
        '{"data":{"last_day":7,"last_month":7,"last_week":7},'
        '"package":"requests","type":"recent_downloads"},'
        '{"data":{"last_day":322,"last_month":4643,"last_week":4643},'
        '"package":"zope-interface","type":"recent_downloads"}'
        '],"missing":["reqeusts"],"type":"recent_downloads_of_many"}'
    ),
    "overall?package=requests&package=mirrored-only&mirrors=true": (
        '{"data":['
        f'{{"data":[{{"category":"with_mirrors","date":"{D1}","downloads":3}}],'
        '"package":"mirrored-only","type":"overall_downloads"},'
        f'{{"data":[{{"category":"with_mirrors","date":"{D0}","downloads":7}}],'
        '"package":"requests","type":"overall_downloads"}'
        '],"missing":[],"type":"overall_downloads_of_many"}'
    ),
    "overall?package=requests,mirrored-only,made-up&mirrors=true&sum=true": (
        '{"data":['
        f'{{"data":[{{"category":"with_mirrors","date":"{D1}","downloads":3}},'
        f'{{"category":"with_mirrors","date":"{D0}","downloads":7}}],'
        '"package":"__sum__","type":"overall_downloads"}'
        '],"missing":["made-up"],"type":"overall_downloads_of_many"}'
    ),
    "recent?package=requests,zope.interface&sum=true&period=day": (
        '{"data":[{"data":{"last_day":329},"package":"__sum__","type":"recent_downloads"}],'
        '"missing":[],"type":"recent_downloads_of_many"}'
    ),
    "system?package=Requests,zope_interface&os=linux": (
        '{"data":['
        f'{{"data":[{{"category":"linux","date":"{D0}","downloads":7}}],'
        '"package":"requests","type":"system_downloads"},'
        f'{{"data":[{{"category":"linux","date":"{D1}","downloads":300}},'
        f'{{"category":"linux","date":"{D0}","downloads":302}}],'
        '"package":"zope-interface","type":"system_downloads"}'
        '],"missing":[],"type":"system_downloads_of_many"}'
    ),
    f"python_major?package=requests,zope.interface&sum=True&start_date={D0}&rolling=2": (
        '{"data":['
        f'{{"data":[{{"category":"2","date":"{D0}","downloads":0}},'
        f'{{"category":"3","date":"{D0}","downloads":324}},'
        f'{{"category":"null","date":"{D0}","downloads":2000}}],'
        '"events":[],"package":"__sum__","type":"python_major_downloads"}'
        '],"missing":[],"type":"python_major_downloads_of_many"}'
    ),
    "system?package=made-up&sum=true": (
        '{"data":[],"missing":["made-up"],"type":"system_downloads_of_many"}'
    ),
}


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize("path", GOLDENS)
async def test_payload(client: httpx.AsyncClient, queries: list[str], path: str) -> None:
    response = await client.get(f"/api/bulk/{path}")
    assert response.status_code == 200
    assert response.text == GOLDENS[path]
    assert len(queries) == 1
    name = path.partition("?")[0]
    model = PAYLOADS.get(f"bulk/{name}", PAYLOADS["bulk/{breakdown}"])
    model.model_validate_json(response.content, strict=True, extra="forbid")


@pytest.mark.usefixtures("known_days")
async def test_each_package_has_its_usual_payload(client: httpx.AsyncClient) -> None:
    names = ["__all__", "mirrored-only", "requests", "zope-interface"]
    asked = "&".join(f"package={name}" for name in names)
    ranges = (
        f"start_date={D0}",
        f"end_date={D1}&fill=zero",
        "fill=zero",
        "interval=week",
        "rolling=2",
    )
    for endpoint, query in (
        *product(["recent"], ("", "period=week")),
        *product(["overall"], ("", "mirrors=false", *ranges)),
        *product(["system", "python_minor"], ("", "os=LINUX", "version=3.9", *ranges)),
    ):
        response = await client.get(f"/api/bulk/{endpoint}?{asked}&{query}")
        alone = [
            (await client.get(f"/api/packages/{name}/{endpoint}?{query}")).json() for name in names
        ]
        assert response.json()["data"] == alone
        assert response.json()["missing"] == []


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize("endpoint", ["recent", "overall"])
async def test_invalid_names_are_missing(
    client: httpx.AsyncClient, queries: list[str], endpoint: str
) -> None:
    odd = ["-", "a\0b", "ü", "x" * 500, "a b"]
    response = await client.get(f"/api/bulk/{endpoint}", params={"package": [*odd, "requests"]})
    assert response.status_code == 200
    assert [one["package"] for one in response.json()["data"]] == ["requests"]
    assert response.json()["missing"] == sorted(odd)
    assert len(queries) == 1


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize("endpoint", ["recent", "overall"])
async def test_a_hundred_of_the_longest_names(client: httpx.AsyncClient, endpoint: str) -> None:
    names = [f"{number:03}{'x' * 197}" for number in range(MAX_PACKAGES)]
    path = f"/api/bulk/{endpoint}"
    response = await client.get(path, params={"package": names})
    assert response.json()["missing"] == names
    # Spellings of one name are one package, but each counts for the limit, as documented.
    several = [*names[:50], *(name.upper() for name in names[:50])]
    assert (await client.get(path, params={"package": several})).json()["missing"] == names[:50]
    wrongs: tuple[list[str], ...] = (
        [*names, "requests"],
        [*names, names[0]],
        ["a"] * 101,
        [],
        [","],
        ["a,b"] * 51,
    )
    for wrong in wrongs:
        response = await client.get(path, params={"package": wrong})
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert error["parameter"] == "package"
    for data in ("recent", "overall", "system"):
        query = {"package": "__all__,requests", "sum": "true"}
        response = await client.get(f"/api/bulk/{data}", params=query)
        assert response.status_code == 422, response.text
        (error,) = response.json()["errors"]
        assert error["parameter"] == "sum"


@pytest.mark.usefixtures("known_days")
async def test_order_and_spelling_of_names_do_not_matter(
    app: Service, client: httpx.AsyncClient, queries: list[str]
) -> None:
    tags = set()
    for asked in (
        "package=requests&package=zope.interface",
        "package=Zope_Interface&package=requests",
    ):
        response = await client.get(f"/api/bulk/recent?{asked}")
        tags.add(response.headers["etag"])
    assert len(tags) == len(queries) == 1
    # Responses with made-up names are not stored.
    for _ in range(2):
        await client.get("/api/bulk/recent?package=requests&package=made-up")
    assert len(queries) == 3


@pytest.fixture
async def organisation(app: Service, engine: AsyncEngine) -> None:
    """Two packages with all breakdowns, with more than 20 releases and other releases each."""
    for ago in (3, 1, 0):
        rows = []
        for number, name in enumerate(("flask", "numpy", "other"), start=1):
            releases = {f"{number}.{minor}": 1 + ago + minor for minor in range(15 * number)}
            releases |= {"1.0": 3, "other": 5}
            count = sum(releases.values())
            counts = optional_counts(count, version=releases)
            systems = {"linux": count - ago, "windows": ago} if ago else {"linux": count}
            rows.append(downloads(name, count, systems, mirrors=number, **counts))
        await publish(engine, days_ago(ago), *rows)
    await until_known(app)


def _sums(series: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    sums: Counter[tuple[str, str]] = Counter()
    for one in series:
        for item in one["data"]:
            sums[item["category"], item["date"]] += item["downloads"]
    return sums


@pytest.mark.usefixtures("organisation")
@pytest.mark.parametrize("name", ["overall", *(one.name for one in BREAKDOWNS)])
async def test_the_sum_equals_the_sum_of_the_members(client: httpx.AsyncClient, name: str) -> None:
    everything = next(
        (f"&{one.argument}=all" for one in BREAKDOWNS if one.name == name and one.shown_categories),
        "",
    )
    path = f"/api/bulk/{name}?package=numpy,flask,none{everything}"
    for query in ("", f"&start_date={days_ago(2)}", "&fill=zero", f"&end_date={days_ago(8)}"):
        each = (await client.get(path + query)).json()
        (summed,) = (await client.get(f"{path}{query}&sum=true")).json()["data"]
        assert summed["package"] == "__sum__"
        assert _sums([summed]) == _sums(each["data"])
        assert each["missing"] == ["none"]
        assert len(each["data"]) == 2
        items = [(item["category"], item["date"]) for item in summed["data"]]
        assert items == sorted(set(items))
        table = await client.get(f"{path}{query}&sum=true&format=csv")
        rows = [f"__sum__,{','.join(map(str, item.values()))}" for item in summed["data"]]
        assert table.text.splitlines() == ["package,category,date,downloads", *rows]


@pytest.mark.usefixtures("organisation")
async def test_a_sum_shows_as_many_categories_as_a_series(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/bulk/version?package=numpy,flask&sum=true")
    (summed,) = response.json()["data"]
    assert len({item["category"] for item in summed["data"]}) == 21
    everything = await client.get("/api/bulk/version?package=numpy,flask&version=all")
    assert sum(_sums([summed]).values()) == sum(_sums(everything.json()["data"]).values())


@pytest.mark.usefixtures("organisation")
async def test_all_packages_are_missing_in_breakdowns_of_one(client: httpx.AsyncClient) -> None:
    for one in BREAKDOWNS:
        response = await client.get(f"/api/bulk/{one.name}?package=__all__,flask")
        missing = ["__all__"] if one.column in COLUMNS_OF_ONE_PACKAGE else []
        assert response.json()["missing"] == missing


@pytest.mark.usefixtures("known_days")
async def test_wrong_breakdowns_and_categories(
    client: httpx.AsyncClient, queries: list[str]
) -> None:
    alone = await client.get("/api/packages/requests/ci")
    together = await client.get("/api/bulk/ci?package=requests")
    assert together.status_code == alone.status_code == 404
    assert together.json()["detail"] == alone.json()["detail"]
    for name, argument in (("system", "os=beos"), ("country", "country=x"), ("ci", "ci=1")):
        alone = await client.get(f"/api/packages/requests/{name}?{argument}")
        together = await client.get(f"/api/bulk/{name}?package=requests&{argument}")
        assert together.status_code == 422
        assert together.json()["errors"] == alone.json()["errors"]
    response = await client.get("/api/bulk/beos?package=requests")
    assert response.json()["errors"][0]["parameter"] == "breakdown"
    response = await client.get("/api/bulk/system?package=requests&sum=1")
    assert response.json()["errors"] == [
        {"parameter": "sum", "message": "Input should be 'true' or 'false'"}
    ]
    assert queries == []


@pytest.mark.usefixtures("organisation")
async def test_large_responses_are_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_series, "MAX_ITEMS", 8)
    for path in (
        "overall?package=flask",
        "system?package=flask",
        "system?package=flask,numpy&os=linux",
    ):
        assert (await client.get(f"/api/bulk/{path}")).status_code == 200
    for path in (
        "overall?package=flask,numpy",
        "system?package=flask,numpy",
        "version?package=flask",
    ):
        response = await client.get(f"/api/bulk/{path}")
        assert response.status_code == 422
        assert response.json()["errors"][0]["message"].startswith("would make ")
    assert (await client.get("/api/bulk/system?package=flask,numpy&sum=true")).status_code == 200
    monkeypatch.setattr(bulk, "MAX_SUMMED_ITEMS", 4)
    response = await client.get("/api/bulk/system?package=flask,numpy&sum=true&fill=zero")
    assert response.json()["errors"][0]["parameter"] == "package"
