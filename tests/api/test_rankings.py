"""Rankings, search, summaries and badges, as they are answered."""

import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.badges import Badge, color_of, in_short
from app.api.rankings import TopPackages, TrendingPackages
from app.api.search import SearchResults, beginning_of_name
from app.api.summary import PackageSummary
from app.domain.events import KnownEvents
from app.domain.package_name import ALL_PACKAGES, is_valid, normalise
from app.main import Service
from tests.days import RETENTION_DAYS, days_ago, downloads, publish
from tests.waiting import published, until

D0, D1, D13 = days_ago(0), days_ago(1), days_ago(13)

EVENTS = ",".join(
    event.model_dump_json() for event in KnownEvents().within(days_ago(RETENTION_DAYS - 1), D0)
)

# 14 days of two packages of which one grows, and on the last day of some more.
GOLDENS = {
    "top": (
        '{"data":['
        '{"downloads":43200,"package":"flask","rank":1,"share":0.506596},'
        '{"downloads":41975,"package":"numpy","rank":2,"share":0.492231},'
        '{"downloads":50,"package":"flask-login","rank":3,"share":0.000586},'
        '{"downloads":50,"package":"requests","rank":4,"share":0.000586}'
        f'],"days":14,"followed_packages":null,"since":"{D13}","through":"{D0}",'
        '"type":"top_packages"}'
    ),
    "top?period=day&limit=1": (
        '{"data":[{"downloads":5500,"package":"flask","rank":1,"share":0.67734}],'
        f'"days":1,"followed_packages":null,"since":"{D0}","through":"{D0}",'
        '"type":"top_packages"}'
    ),
    "top?period=all": (
        '{"data":[],"days":0,"followed_packages":null,"since":null,"through":null,"type":"top_packages"}'
    ),
    "trending": (
        '{"data":[{"growth":0.2442,"last_week":23950,"package":"flask",'
        '"previous_week":19250,"rank":1}],"followed_packages":null,"type":"trending_packages"}'
    ),
    "search?q=Flas": (
        '{"data":[{"last_month":43200,"package":"flask","rank":1},'
        '{"last_month":50,"package":"flask-login","rank":3},'
        '{"last_month":0,"package":"flask-mirrored","rank":null}],'
        '"next_cursor":null,"type":"search_results"}'
    ),
    "search?q=reqeusts": (
        '{"data":[{"last_month":50,"package":"requests","rank":4}],'
        '"next_cursor":null,"type":"search_results"}'
    ),
    "packages/Flask": (
        '{"data":{"breakdowns":['
        '{"name":"python_major","path":"/api/packages/flask/python_major"},'
        '{"name":"python_minor","path":"/api/packages/flask/python_minor"},'
        '{"name":"system","path":"/api/packages/flask/system"}],'
        '"change":{"month":null,"week":0.2442},"downloads":43200,'
        f'"events":[{EVENTS}],"first_date":"{D13}","latest_date":"{D0}",'
        f'"peak":{{"date":"{D0}","downloads":5500}},"rank":1,'
        '"recent":{"last_day":5500,"last_month":43200,"last_week":23950},'
        f'"total":{{"downloads":43200,"since":"{D13}","through":"{D0}"}}}},'
        '"package":"flask","type":"package_summary"}'
    ),
    "packages/flask_mirrored": (
        '{"data":{"breakdowns":['
        '{"name":"python_major","path":"/api/packages/flask-mirrored/python_major"},'
        '{"name":"python_minor","path":"/api/packages/flask-mirrored/python_minor"},'
        '{"name":"system","path":"/api/packages/flask-mirrored/system"}],'
        '"change":{"month":null,"week":null},"downloads":0,'
        f'"events":[{EVENTS}],"first_date":null,"latest_date":null,"peak":null,"rank":null,'
        '"recent":{"last_day":0,"last_month":0,"last_week":0},'
        f'"total":{{"downloads":0,"since":"{D13}","through":"{D0}"}}}},'
        '"package":"flask-mirrored","type":"package_summary"}'
    ),
    "badges/flask/month": (
        '{"schemaVersion":1,"label":"downloads","message":"43k/month","color":"brightgreen",'
        '"cacheSeconds":3600}'
    ),
    "badges/Requests/day": (
        '{"schemaVersion":1,"label":"downloads","message":"50/day","color":"yellowgreen",'
        '"cacheSeconds":3600}'
    ),
    "badges/flask/total": (
        '{"schemaVersion":1,"label":"downloads","message":"43k total","color":"brightgreen",'
        '"cacheSeconds":3600}'
    ),
    "badges/flask-mirrored/week": (
        '{"schemaVersion":1,"label":"downloads","message":"0/week","color":"red",'
        '"cacheSeconds":3600}'
    ),
}
MODELS: dict[str, type[BaseModel]] = {
    "top": TopPackages,
    "trending": TrendingPackages,
    "search": SearchResults,
    "packages": PackageSummary,
    "badges": Badge,
}


@pytest.fixture
async def ranked(app: Service, engine: AsyncEngine) -> None:
    for ago in range(13, -1, -1):
        rows = [downloads("flask", 2600 + 50 * (13 - ago)), downloads("numpy", 3000 + 5 * ago)]
        if ago == 0:
            rows = [downloads("flask", 5500), downloads("numpy", 2520)]
            rows += [downloads(name, 50) for name in ("requests", "flask-login")]
        await publish(engine, days_ago(ago), *rows, downloads("flask-mirrored", 0, mirrors=3))
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication and len(known.publication.days) == 14)


@pytest.mark.usefixtures("ranked")
async def test_payloads(client: httpx.AsyncClient, queries: list[str]) -> None:
    await client.get("/api/search?q=warm")
    for path, golden in GOLDENS.items():
        queries.clear()
        response = await client.get(f"/api/{path}")
        assert response.status_code == 200
        assert response.text == golden
        assert len(queries) == 1
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-data-as-of"] == str(D0)
        assert response.headers["access-control-allow-origin"] == "*"
        model = MODELS[re.split("[/?]", path)[0]]
        model.model_validate_json(response.content, strict=True, extra="forbid")
        # The response is stored, and confirmed without a query.
        tag = {"If-None-Match": response.headers["etag"]}
        assert (await client.get(f"/api/{path}", headers=tag)).status_code == 304
        assert len(queries) == 1


@pytest.mark.usefixtures("ranked")
async def test_all_packages_together(client: httpx.AsyncClient) -> None:
    """All packages together have no rank and are in no ranking, but can be requested by name."""
    summary = (await client.get(f"/api/packages/{ALL_PACKAGES}")).json()["data"]
    assert (summary["rank"], summary["recent"]["last_day"]) == (None, 8120)
    badge = (await client.get(f"/api/badges/{ALL_PACKAGES}/day")).json()
    assert badge["message"] == "8.1k/day"
    for path in ("top", "trending", "search?q=all", f"search?q={ALL_PACKAGES}", "search?q=_"):
        assert ALL_PACKAGES not in (await client.get(f"/api/{path}")).text


@pytest.mark.usefixtures("ranked")
async def test_a_trend_needs_all_days_to_be_published(
    client: httpx.AsyncClient, app: Service, engine: AsyncEngine
) -> None:
    """Nothing is told of two weeks of which a day is missing: a later day, and not the one after
    the latest.
    """
    assert len((await client.get("/api/trending")).json()["data"]) == 1
    # As if today were over: days that are yet to come are not published.
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"DELETE FROM ingested_days WHERE day = '{days_ago(5)}'")
    await publish(engine, D0, downloads("flask", 5501), downloads("numpy", 1))
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication and len(known.publication.days) == 13)
    response = await client.get("/api/trending")
    assert response.text == '{"data":[],"followed_packages":null,"type":"trending_packages"}'
    summary = (await client.get("/api/packages/flask")).json()
    assert summary["data"]["change"] == {"month": None, "week": None}


@pytest.mark.usefixtures("known_days")
async def test_pages(client: httpx.AsyncClient, app: Service, engine: AsyncEngine) -> None:
    """All pages together are complete, and a cursor from before a publish is still valid."""
    names = [f"page-{number}" for number in range(7)]
    latest = published(app).version
    await publish(engine, D0, *(downloads(name, 100 - place) for place, name in enumerate(names)))
    await until(lambda: published(app).version != latest)
    whole = (await client.get("/api/search?q=page")).json()
    assert [one["package"] for one in whole["data"]] == names
    assert whole["next_cursor"] is None
    found, cursor, cursors = [], "", []
    while cursor is not None:
        asked = f"&cursor={cursor}" if cursor else ""
        page = (await client.get(f"/api/search?q=page&limit=3{asked}")).json()
        found += page["data"]
        cursor = page["next_cursor"]
        cursors.append(cursor)
    assert found == whole["data"]
    assert len(cursors) == 3
    latest = published(app).version
    await publish(engine, D0, *(downloads(name, 100) for name in names))
    await until(lambda: published(app).version != latest)
    page = (await client.get(f"/api/search?q=page&cursor={cursors[0]}")).json()
    assert [one["package"] for one in page["data"]] == names[3:]


@pytest.mark.usefixtures("ranked")
async def test_spellings_of_a_search_share_a_response(
    client: httpx.AsyncClient, queries: list[str]
) -> None:
    for paths in (
        ["top", "top?period=month", "top?limit=100", "top?&limit=0100&x=y"],
        ["search?q=flask", "search?q=FLASK&limit=20", "search?q=.flask"],
        ["badges/flask/day", "badges/Flask/day"],
    ):
        await client.get("/api/search?q=warm")
        queries.clear()
        answers = [await client.get(f"/api/{path}") for path in paths]
        assert len({answer.headers["etag"] for answer in answers}) == 1
        assert len(queries) == 1


@pytest.mark.usefixtures("ranked")
async def test_arbitrary_searches_are_not_cached(
    client: httpx.AsyncClient, queries: list[str]
) -> None:
    await client.get("/api/search?q=warm")
    searches = ("search?q=flaks", "search?q=flask&limit=3", "search?q=flask&cursor=0:1:flask")
    for path in ("top?limit=37", "trending?limit=101", *searches):
        queries.clear()
        for _ in range(2):
            assert (await client.get(f"/api/{path}")).json()["data"]
        assert len(queries) == 2


# Formatting


@given(st.text(min_size=1, max_size=200))
def test_the_text_of_a_search_is_normalised(text: str) -> None:
    try:
        beginning = beginning_of_name(text)
    except ValueError:
        assert not re.search("[a-zA-Z0-9]", text)
    else:
        assert re.fullmatch("[a-z0-9][a-z0-9-]*", beginning)
        assert "--" not in beginning
        assert beginning_of_name(beginning) == beginning


@given(st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9._-]{0,30}[a-zA-Z0-9])?", fullmatch=True))
def test_a_normalised_name_stays_as_it_is(name: str) -> None:
    assert beginning_of_name(name) == normalise(name)
    assert is_valid(normalise(name))


_COUNTS = st.one_of(
    st.integers(0, 10**13),
    # Around what is rounded to the next unit.
    st.builds(
        lambda power, off: max(0, 10**power + off), st.integers(0, 13), st.integers(-600, 600)
    ),
    st.builds(lambda digits, power: digits * 10**power, st.integers(0, 99999), st.integers(0, 9)),
)


def _value(short: str) -> float:
    units = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    return float(short.rstrip("kMBT")) * units.get(short[-1], 1)


@given(_COUNTS)
def test_a_shortened_count_is_close_to_the_count(count: int) -> None:
    short = in_short(count)
    assert re.fullmatch(r"\d\.[1-9][kMBT]|\d{1,3}[kMB]?|\d{1,5}T", short)
    unit = max(one for one in (1, 10**3, 10**6, 10**9, 10**12) if one == 1 or count >= one)
    rounding = 0.5 if count >= 9.95 * unit else 0.05
    assert abs(_value(short) - count) <= rounding * unit * (1 + 1e-9)


@given(_COUNTS, _COUNTS)
def test_shortened_counts_increase_with_the_count(one: int, other: int) -> None:
    less, more = sorted([one, other])
    assert _value(in_short(less)) <= _value(in_short(more))


def test_shortened_counts() -> None:
    expected = {0: "0", 999: "999", 1000: "1k", 1049: "1k", 1250: "1.3k", 9949: "9.9k"}
    expected |= {9950: "10k", 10_500: "11k", 999_499: "999k", 999_500: "1M"}
    expected |= {1_940_000_000: "1.9B", 12_300_000_000_000: "12T"}
    assert {count: in_short(count) for count in expected} == expected


def test_the_color_of_a_badge() -> None:
    expected = {0: "red", 1: "yellow", 9: "yellow", 10: "yellowgreen", 99: "yellowgreen"}
    expected |= {100: "green", 999: "green", 1000: "brightgreen"}
    assert {count: color_of(count) for count in expected} == expected


def test_a_character_outside_of_names_ends_the_text() -> None:
    expected = {"requests ": "requests", "requests!": "requests", " Requests\t": "requests"}
    expected |= {"requests-": "requests-", "requests_ ": "requests-"}
    expected |= {"scikit learn": "scikit-learn"}
    assert {text: beginning_of_name(text) for text in expected} == expected
