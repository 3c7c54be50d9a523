"""Each row of `docs/compatibility.md` has a case here, and each case has a row."""

from collections.abc import Awaitable, Callable
from datetime import date, timedelta

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.breakdowns import PYTHON_MINOR
from app.main import Service
from app.settings import IngestSource, Settings
from tests.days import days_ago, downloads, publish
from tests.processes import ROOT
from tests.waiting import until, until_known

Case = Callable[[httpx.AsyncClient], Awaitable[None]]

CASES: dict[str, Case] = {}

ENDPOINTS = ("recent", "overall", "python_major", "python_minor", "system")

ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "compatibility.md").read_text().splitlines()
    if line.startswith("| ")
][2:]


def _case(row: str) -> Callable[[Case], Case]:
    def declare(case: Case) -> Case:
        CASES[row] = case
        return case

    return declare


async def _data(client: httpx.AsyncClient, path: str) -> list[dict[str, object]]:
    response = await client.get(f"/api/packages/{path}")
    assert response.status_code == 200
    data: list[dict[str, object]] = response.json()["data"]
    return data


async def _categories(client: httpx.AsyncClient, path: str) -> set[object]:
    return {one["category"] for one in await _data(client, path)}


@_case("names of systems")
async def _systems(client: httpx.AsyncClient) -> None:
    expected = {"windows", "linux", "darwin", "null"}
    assert await _categories(client, "zope-interface/system") == expected


@_case("unknown package")
async def _unknown(client: httpx.AsyncClient) -> None:
    for endpoint in ENDPOINTS:
        assert (await client.get(f"/api/packages/reqeusts/{endpoint}")).status_code == 404


@_case("known package without matching downloads")
async def _no_match(client: httpx.AsyncClient) -> None:
    assert await _data(client, "zope-interface/python_minor?version=3.99") == []
    assert await _data(client, "mirrored-only/overall?mirrors=false") == []


@_case("invalid argument")
async def _invalid(client: httpx.AsyncClient) -> None:
    for query in ("recent?period=year", "overall?mirrors=1", "system?os=beos"):
        response = await client.get(f"/api/packages/zope-interface/{query}")
        assert response.status_code == 422
        assert "Input should be '" in response.json()["detail"]
    assert await _data(client, "zope-interface/python_minor?version=3.12.1") == []


@_case("case of arguments")
async def _case_of_values(client: httpx.AsyncClient) -> None:
    assert await _categories(client, "zope-interface/system?os=Linux") == {"linux"}
    assert await _categories(client, "zope-interface/overall?mirrors=True") == {"with_mirrors"}
    month = await client.get("/api/packages/zope-interface/recent?period=Month")
    assert [*month.json()["data"]] == ["last_month"]


@_case("empty argument")
async def _empty(client: httpx.AsyncClient) -> None:
    everything = await _data(client, "zope-interface/system")
    assert await _data(client, "zope-interface/system?os=") == everything


@_case("spelling of names")
async def _spelling(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/packages/Zope.Interface/recent")
    assert response.json()["package"] == "zope-interface"


@_case("days of a series")
async def _days(client: httpx.AsyncClient) -> None:
    days = {one["date"] for one in await _data(client, "zope-interface/overall")}
    assert min(map(str, days)) == str(date.fromisoformat(str(max(map(str, days)))) - timedelta(29))


@_case("Python versions")
async def _versions(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/packages/zope-interface/python_minor")
    assert PYTHON_MINOR.is_category("3.99")
    assert not PYTHON_MINOR.is_category("3.100")
    assert {"3.12", "null"} <= {one["category"] for one in response.json()["data"]}


@_case("many Python versions")
async def _many_versions(client: httpx.AsyncClient) -> None:
    data = await _data(client, "invented/python_minor")
    assert len({one["category"] for one in data}) == 250
    assert sum(int(str(one["downloads"])) for one in data) == 1000


@_case("latest day")
async def _latest(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/packages/zope-interface/overall")
    latest = max(one["date"] for one in response.json()["data"])
    assert response.headers["x-data-as-of"] == latest


@_case("mirrors")
async def _mirrors(client: httpx.AsyncClient) -> None:
    text = (await client.get("/docs.md")).text
    public = next(row[1] for row in ROWS if row[0] == "mirrors")
    assert f"({public})" in text
    assert await _categories(client, "mirrored-only/overall") == {"with_mirrors"}


@_case("errors")
async def _errors(client: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/api/packages/reqeusts/recent"):
        response = await client.get(path, headers={"Accept": "text/html"})
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"]


@_case("rate limits")
async def _limits(client: httpx.AsyncClient) -> None:
    path = "/api/packages/zope-interface/recent"
    response = await client.get(path)
    assert response.headers["x-ratelimit-limit"] == "50"
    for _ in range(50):
        response = await client.get(path)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) > 0


@_case("caching")
async def _caching(client: httpx.AsyncClient) -> None:
    path = "/api/packages/flask/recent"
    response = await client.get(path)
    assert response.headers["cache-control"].startswith("public, max-age=")
    tag = {"If-None-Match": response.headers["etag"]}
    assert (await client.get(path, headers=tag)).status_code == 304
    part = await client.get(path, headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.text) == (206, response.text[:8])


@_case("web pages of other origins")
async def _origins(client: httpx.AsyncClient) -> None:
    path, origin = "/api/packages/flask/recent", {"Origin": "https://example.org"}
    response = await client.get(path, headers=origin)
    assert response.headers["access-control-allow-origin"] == "*"
    asked = {**origin, "Access-Control-Request-Method": "GET"}
    permission = await client.options(path, headers=asked)
    assert permission.is_success
    assert permission.headers["access-control-allow-origin"] == "*"


@_case("documentation")
async def _documentation(client: httpx.AsyncClient) -> None:
    page = await client.get("/api/", follow_redirects=True)
    assert (page.url.path, page.status_code) == ("/docs", 200)
    assert (await client.get("/docs.md")).headers["content-type"].startswith("text/plain")


@pytest.fixture
def settings() -> Settings:
    return Settings(rate_limits="50/hour", retention_days=30, ingest_source=IngestSource.NONE)


@pytest.fixture
async def _days_with_everything(app: Service, engine: AsyncEngine) -> None:
    invented = {f"{major}.{minor}": 1 for major in range(10) for minor in range(100)}
    for ago in (30, 29, 0):
        systems = {"windows": 4, "linux": 3, "darwin": 2, "null": 1}
        await publish(
            engine,
            days_ago(ago),
            downloads("zope-interface", {"3.12": 6, "null": 4}, systems, mirrors=5),
            downloads("mirrored-only", 0, mirrors=3),
            downloads("flask", 1),
            *([downloads("invented", invented)] if ago == 0 else []),
        )
    await until(lambda: app.dispatcher.publication_watch.publication)
    await until_known(app)
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication and known.publication.latest_day == days_ago(0))


def test_each_documented_difference_has_a_test() -> None:
    assert [row[0] for row in ROWS] == [*CASES]
    assert {len(row) for row in ROWS} == {3}


@pytest.mark.usefixtures("_days_with_everything")
@pytest.mark.parametrize("row", [row[0] for row in ROWS])
async def test_a_documented_difference_is_true(client: httpx.AsyncClient, row: str) -> None:
    await CASES[row](client)


@pytest.mark.parametrize("row", ["caching", "web pages of other origins", "documentation"])
async def test_a_documented_difference_is_true_of_a_running_service(address: str, row: str) -> None:
    async with httpx.AsyncClient(base_url=address) as client:
        await CASES[row](client)
