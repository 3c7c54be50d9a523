"""Many packages in one answer: each as if it were asked alone."""

from itertools import product

import httpx
import pytest

from app.api.bulk import MAX_PACKAGES
from app.main import Service
from tests.api.payloads import PAYLOADS
from tests.days import days_ago

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
}


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize("path", GOLDENS)
async def test_payload(client: httpx.AsyncClient, queries: list[str], path: str) -> None:
    response = await client.get(f"/api/bulk/{path}")
    assert response.status_code == 200
    assert response.text == GOLDENS[path]
    assert len(queries) == 1
    model = PAYLOADS[f"bulk/{path.partition('?')[0]}"]
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
    odd = ["-", "a\0b", "ü", "x" * 500, "a,b"]
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
    for wrong in ([*names, "requests"], [*names, names[0]], ["a"] * 101, []):
        response = await client.get(path, params={"package": wrong})
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert error["parameter"] == "package"


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
