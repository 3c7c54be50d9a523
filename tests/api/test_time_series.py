"""Ranges of days, zeros, weeks and months, CSV: what all time series can be asked for."""

import asyncio
from datetime import date, timedelta
from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.negotiation import accepted_format
from app.domain.events import Event, EventKind
from app.main import Service
from tests.days import RETENTION_DAYS, days_ago, downloads, publish
from tests.waiting import until

ENDPOINTS = ("overall", "python_major", "python_minor", "system")

DAYS_AGO = (0, 1, 2, 4, 5, 9, 10, 11, 40)
"""Published; the others are not known."""


@pytest.fixture
async def _days(app: Service, engine: AsyncEngine) -> None:
    for ago in reversed(DAYS_AGO):
        rows = [downloads("other", 1)]
        if ago not in (1, 10):
            rows.append(downloads("requests", {"3.12": ago + 1, "2.7": 2}, mirrors=ago))
        await publish(engine, days_ago(ago), *rows)
    await _until_known(app)


async def _until_known(app: Service) -> None:
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication and known.publication.latest_day == days_ago(0))


async def _items(client: httpx.AsyncClient, path: str) -> list[tuple[str, date, int]]:
    response = await client.get(f"/api/packages/requests/{path}")
    assert response.status_code == 200, response.text
    return [
        (item["category"], date.fromisoformat(item["date"]), item["downloads"])
        for item in response.json()["data"]
    ]


@pytest.mark.usefixtures("_days")
async def test_a_range_contains_its_days(client: httpx.AsyncClient) -> None:
    start, end = days_ago(9), days_ago(2)
    range_ = f"start_date={start}&end_date={end}"
    assert await _items(client, f"python_major?version=3&{range_}") == [
        ("3", days_ago(ago), count) for ago, count in {9: 10, 5: 6, 4: 5, 2: 3}.items()
    ]
    for endpoint in ENDPOINTS:
        everything = await _items(client, endpoint)
        assert await _items(client, f"{endpoint}?{range_}") == [
            item for item in everything if start <= item[1] <= end
        ]


@pytest.mark.usefixtures("_days")
async def test_any_split_of_a_range_adds_up_to_the_whole(client: httpx.AsyncClient) -> None:
    whole = {endpoint: await _items(client, endpoint) for endpoint in ENDPOINTS}
    days = [days_ago(ago) for ago in range(RETENTION_DAYS + 3, -3, -1)]

    async def split(cuts: set[date], endpoint: str) -> list[tuple[str, date, int]]:
        bounds = [days[0], *sorted(cuts), days[-1]]
        parts = []
        for first, following in pairwise(bounds):
            last = following - timedelta(days=1)
            parts += await _items(client, f"{endpoint}?start_date={first}&end_date={last}")
        return parts

    loop = asyncio.get_running_loop()

    @hypothesis_settings(max_examples=15)
    @given(st.sets(st.sampled_from(days[1:-1]), max_size=4), st.sampled_from(ENDPOINTS))
    def check(cuts: set[date], endpoint: str) -> None:
        parts = asyncio.run_coroutine_threadsafe(split(cuts, endpoint), loop).result()
        assert sorted(parts) == sorted(whole[endpoint])

    await asyncio.to_thread(check)


@pytest.mark.usefixtures("_days")
async def test_a_range_is_clamped_to_the_days_served(
    client: httpx.AsyncClient, queries: list[str]
) -> None:
    """Ranges that are clamped to the same days share a response."""
    wide = "system?start_date=0001-01-01&end_date=9999-12-31"
    assert await _items(client, wide) == await _items(client, "system")
    assert len(queries) == 1
    before = f"system?start_date=2020-01-01&end_date={days_ago(RETENTION_DAYS)}"
    after = f"system?start_date={days_ago(-1)}"
    for path in (before, after):
        assert await _items(client, path) == []
    tags = set()
    for day in ("2019-01-01", "2020-05-05"):
        response = await client.get(f"/api/packages/requests/system?end_date={day}")
        tags.add(response.headers["etag"])
    assert len(tags) == 1


@pytest.mark.usefixtures("_days")
async def test_a_range_without_downloads_is_no_404(client: httpx.AsyncClient) -> None:
    for endpoint in ENDPOINTS:
        path = f"{endpoint}?start_date={days_ago(8)}&end_date={days_ago(6)}"
        assert await _items(client, path) == []
        response = await client.get(f"/api/packages/reqeusts/{path}")
        assert response.status_code == 404


async def test_every_wrong_argument_is_listed(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/packages/requests/system?os=x&start_date=x&fill=x&format=x")
    told = {error["parameter"] for error in response.json()["errors"]}
    assert told == {"os", "start_date", "fill", "format"}


@pytest.mark.usefixtures("_days")
async def test_fill_adds_zeros_only_on_published_days(
    client: httpx.AsyncClient,
) -> None:
    range_ = f"start_date={days_ago(9)}"
    counts = {9: 10, 5: 6, 4: 5, 2: 3, 1: 0, 0: 1}
    assert await _items(client, f"python_major?version=3&fill=zero&{range_}") == [
        ("3", days_ago(ago), count) for ago, count in counts.items()
    ]
    # Categories without any downloads of the package are not filled.
    assert await _items(client, "python_major?version=9&fill=zero") == []


async def test_weeks_and_months(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    latest = days_ago(0)
    monday = latest - timedelta(days=latest.weekday() + 14)
    # Two whole weeks, the second without downloads on a day, and what goes on to the latest day.
    days = [monday + timedelta(days=passed) for passed in range((latest - monday).days + 1)]
    for number, day in enumerate(days):
        rows = [downloads("other", 1)]
        if number != 10:
            rows.append(downloads("requests", 2**number))
        await publish(engine, day, *rows)
    await _until_known(app)
    first = sum(2**number for number in range(7))
    second = sum(2**number for number in range(7, 14) if number != 10)
    whole = [("linux", monday, first), ("linux", monday + timedelta(days=7), second)]
    if latest.weekday() == 6:
        third = sum(2**number for number in range(14, 21))
        whole.append(("linux", monday + timedelta(days=14), third))
    assert await _items(client, "system?interval=week") == whole
    assert await _items(client, "system?interval=week&fill=zero") == whole
    # A week of which the range has a part is no week of the range.
    start = monday + timedelta(days=1)
    assert await _items(client, f"system?interval=week&start_date={start}") == whole[1:]
    assert await _items(client, f"system?interval=month&start_date={start}") == []
    assert await _items(client, "system?interval=day") == await _items(client, "system")


@pytest.mark.usefixtures("_days")
async def test_rolling_means(client: httpx.AsyncClient) -> None:
    # Of the days 9, 10 and 11 days ago, there is a download on two.
    means = {11: None, 10: 6, 9: 7, 5: None, 4: 6, 2: 4, 1: 2, 0: 1}
    expected = [("3", days_ago(ago), mean) for ago, mean in means.items() if mean is not None]
    assert await _items(client, "python_major?version=3&rolling=3") == expected
    # The mean of the first day of a range includes the days before it.
    ranged = f"python_major?version=3&rolling=3&start_date={days_ago(4)}"
    assert await _items(client, ranged) == expected[2:]
    assert await _items(client, f"{ranged}&end_date={days_ago(2)}") == expected[2:4]
    assert await _items(client, f"python_major?rolling=3&start_date={days_ago(-1)}") == []
    # Half of the days are enough.
    twos = await _items(client, "python_major?version=3&rolling=2&fill=zero")
    assert [day for _, day, _ in twos] == [days_ago(ago) for ago in reversed(DAYS_AGO)]
    for endpoint in ENDPOINTS:
        response = await client.get(f"/api/packages/requests/{endpoint}?rolling=3&format=csv")
        items = await _items(client, f"{endpoint}?rolling=3")
        rows = [",".join(map(str, item)) for item in items]
        assert response.text.splitlines() == [CSV.strip(), *rows]


async def test_stored_days_before_the_window_count_in_means(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    """The latest day ends a window whose first day is in the middle of a month."""
    first = days_ago(RETENTION_DAYS - 1)
    month = first.replace(day=1)
    before = [first - timedelta(days=1), month, month - timedelta(days=1)]
    for day, count in zip([*reversed(before), first], (1000, 100, 10, 1), strict=True):
        await publish(engine, day, downloads("requests", count))
    await publish(engine, days_ago(0), downloads("requests", 1))
    await _until_known(app)
    assert await _items(client, "system?rolling=2") == [
        ("linux", first, round(11 / 2)),
        ("linux", days_ago(0), 1),
    ]
    span = (first - month).days + 1
    assert await _items(client, f"system?rolling={span + 1}&end_date={first}") == []
    assert span > 6, "the clock of the tests has changed"


@pytest.mark.usefixtures("_days")
async def test_a_mean_reports_changes_of_the_definition(
    app: Service, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = Event(
        date=days_ago(6),
        kind=EventKind.DEFINITION,
        summary="PyPI counts less.",
        url="https://stats.example/event",
    )
    outage = event.model_copy(update={"kind": EventKind.OUTAGE, "end_date": days_ago(5)})
    monkeypatch.setattr(app.state.events, "newest_first", [event, outage])

    async def reported(query: str) -> object:
        response = await client.get(f"/api/packages/requests/overall?{query}")
        content = response.json()
        assert list(content) == sorted(content)
        return content.get("events")

    told = [event.model_dump(mode="json")]
    assert await reported("rolling=2") == told
    assert await reported(f"rolling=3&start_date={days_ago(4)}") == told
    assert await reported(f"rolling=2&start_date={days_ago(4)}") == []
    assert await reported(f"rolling=2&end_date={days_ago(7)}") == []
    assert await reported("") is None


@pytest.mark.parametrize("path", ["packages/requests/overall?", "packages/requests/system?"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rolling=1", "Input should be greater than or equal to 2"),
        ("rolling=91", "Input should be less than or equal to 90"),
        ("rolling=7.5", "should be a whole number, in digits"),
        ("rolling=7&interval=week", "can only be combined with interval=day"),
        ("interval=Month&rolling=7", "can only be combined with interval=day"),
    ],
)
async def test_wrong_spans_of_means(
    client: httpx.AsyncClient, path: str, arguments: str, message: str
) -> None:
    response = await client.get(f"/api/{path}{arguments}")
    assert response.status_code == 422
    assert response.json()["errors"] == [{"parameter": "rolling", "message": message}]


CSV = "category,date,downloads\r\n"


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize(
    ("query", "headers"),
    [("?format=csv", {}), ("", {"Accept": "text/csv"}), ("?format=csv", {"Accept": "text/html"})],
)
async def test_csv(client: httpx.AsyncClient, query: str, headers: dict[str, str]) -> None:
    # Twice each: computed, and from the cache.
    for endpoint in (*ENDPOINTS, *ENDPOINTS):
        path = f"/api/packages/zope-interface/{endpoint}"
        plain = await client.get(path)
        response = await client.get(path + query, headers=headers)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert response.headers["vary"] == "Accept, Accept-Encoding"
        assert response.headers["etag"] != plain.headers["etag"]
        assert response.text == CSV + "".join(
            f"{item['category']},{item['date']},{item['downloads']}\r\n"
            for item in plain.json()["data"]
        )
        again = await client.get(
            path + query, headers={**headers, "If-None-Match": response.headers["etag"]}
        )
        assert again.status_code == 304
        assert again.headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.usefixtures("known_days")
async def test_the_format_argument_takes_precedence_over_accept(client: httpx.AsyncClient) -> None:
    response = await client.get(
        "/api/packages/requests/system?format=json", headers={"Accept": "text/csv"}
    )
    assert response.headers["content-type"] == "application/json"
    response = await client.get(
        "/api/packages/reqeusts/system?format=csv", headers={"Accept": "text/csv"}
    )
    assert response.headers["content-type"] == "application/problem+json"
    empty = await client.get("/api/packages/requests/python_major?version=9&format=csv")
    assert (empty.status_code, empty.text) == (200, CSV)


ACCEPTED = {
    None: (
        *(b"", b"*/*", b"application/json", b"text/html,application/xhtml+xml,*/*;q=0.8"),
        *(b"text/csv, application/json", b"text/csv;q=0.4, application/json;q=0.5"),
        *(b"text/csv;q=0", b"text/csv;q=x", b"application/json;q=0.1, */*;q=0", b"\xff,;;="),
    ),
    "csv": (
        *(b"text/csv", b"TEXT/CSV; charset=utf-8", b"text/csv;q=0.5, application/json;q=0.4"),
        *(b"text/csv, */*;q=0.1", b"text/csv, */*", b"text/*"),
    ),
}


@pytest.mark.parametrize("accepted", ACCEPTED)
def test_formats_that_a_client_accepts(accepted: str | None) -> None:
    assert {accept: accepted_format(accept) for accept in ACCEPTED[accepted]} == dict.fromkeys(
        ACCEPTED[accepted], accepted
    )


TABLES = {
    "packages/Requests/recent": "package,last_day,last_month,last_week\r\nrequests,7,7,7\r\n",
    "packages/requests/recent?period=Week": "package,last_week\r\nrequests,7\r\n",
    "bulk/recent?package=requests&package=none&period=day": "package,last_day\r\nrequests,7\r\n",
    "bulk/recent?package=none": "package,last_day,last_month,last_week\r\n",
    "bulk/overall?package=none&package=requests&mirrors=false": (
        f"package,category,date,downloads\r\nrequests,without_mirrors,{days_ago(0)},7\r\n"
    ),
    "top?limit=1&period=day": ("downloads,package,rank,share\r\n322,zope-interface,1,0.978723\r\n"),
    "trending": "growth,last_week,package,previous_week,rank\r\n",
}


@pytest.mark.usefixtures("known_days")
@pytest.mark.parametrize("path", TABLES)
async def test_tables_as_csv(client: httpx.AsyncClient, path: str) -> None:
    target = f"/api/{path}{'&' if '?' in path else '?'}format=CSV"
    response = await client.get(target)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.text == TABLES[path]
    accepted = await client.get(f"/api/{path}", headers={"Accept": "text/csv"})
    assert accepted.text == TABLES[path]
    # JSON is the default, and other formats are refused.
    assert (await client.get(f"/api/{path}")).headers["content-type"] == "application/json"
    other = await client.get(target.replace("CSV", "xml"))
    assert other.json()["errors"][0]["message"] == "Input should be 'json' or 'csv'"


@pytest.mark.usefixtures("known_days")
async def test_other_endpoints_refuse_csv(client: httpx.AsyncClient) -> None:
    for path in ("packages/requests", "search?q=a", "badges/requests/day", "status", "events"):
        for value, status in (("csv", 422), ("CSV", 422), ("Json", 200), ("", 200)):
            target = f"/api/{path}{'&' if '?' in path else '?'}format={value}"
            response = await client.get(target)
            assert response.status_code == status, target
            if status == 422:
                assert response.json()["detail"] == "format: Input should be 'json'"
