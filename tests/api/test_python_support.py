"""Shares of Python's versions, and when they fall below a threshold."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from math import exp, log
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.python_support import PythonSupport
from app.db.engine import create_engine
from app.domain.events import Event, EventKind, KnownEvents
from app.main import Service, create_app
from app.settings import IngestSource, Settings
from tests.days import days_ago, downloads, publish
from tests.waiting import published, until, until_known

PUBLISHED = [ago for ago in range(94, -1, -1) if ago != 7 and not 60 <= ago < 90]
"""Numbers of days before the latest one. Most days between the two shares are missing."""

DOWNLOADS = 100_000


def _logistic(share: float, slope: float, ago: int) -> float:
    """A share that was this large 124 days ago."""
    return 1 / (1 + exp(-(log(share / (1 - share)) + slope * (124 - ago))))


def _minors(ago: int) -> dict[str, int]:
    old = round(DOWNLOADS * _logistic(0.12, -0.006, ago))
    new = round(DOWNLOADS * _logistic(0.05, 0.01, ago))
    minors = {"3.9": old, "3.14": new, "null": 3000, "7.42": 10, "2.7": 1 if ago == 91 else 0}
    minors = {version: count for version, count in minors.items() if count}
    return minors | {"3.12": DOWNLOADS - sum(minors.values())}


@pytest.fixture(scope="module")
async def engine(module_database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(module_database_url)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def app(module_database_url: str, engine: AsyncEngine) -> AsyncIterator[Service]:
    """The service without stored responses."""
    for ago in PUBLISHED:
        new = [downloads("new", 5)] if ago < 3 else []
        await publish(engine, days_ago(ago), downloads("flask", _minors(ago)), *new)
    settings = Settings(rate_limits="", ingest_source=IngestSource.NONE, response_cache_max_bytes=0)
    app = create_app(settings, module_database_url)
    async with app.running():
        await until(lambda: app.dispatcher.publication_watch.publication)
        yield app


@pytest.fixture(autouse=True)
def _no_events(app: Service) -> None:
    """No known event is in the days, unless a test adds one."""
    app.state.events.newest_first = []


async def _content(client: httpx.AsyncClient, package: str = "flask") -> dict[str, Any]:
    response = await client.get(f"/api/packages/{package}/python_support")
    assert response.status_code == 200, response.text
    PythonSupport.model_validate_json(response.content, strict=True, extra="forbid")
    content: dict[str, Any] = response.json()
    return content


def _share(version: str, last: int) -> float:
    days = [_minors(ago) for ago in range(last, last + 30) if ago in PUBLISHED]
    whole = sum(sum(minors.values()) for minors in days)
    return sum(minors.get(version, 0) for minors in days) / whole


async def test_shares_of_the_latest_and_of_earlier_days(client: httpx.AsyncClient) -> None:
    content = await _content(client)
    assert list(content) == ["data", "events", "package", "type", "unknown"]
    assert [one["version"] for one in content["data"]] == ["2.7", "3.9", "3.12", "3.14"]
    assert [one["version"] for one in content["unknown"]] == ["7.42", "null"]
    for one in (*content["data"], *content["unknown"]):
        assert list(one) == sorted(one)
        share, previous = (_share(one["version"], last) for last in (0, 90))
        assert one["share"] == round(share, 4)
        assert one["previous_share"] == round(previous, 4)
        assert one["change_per_month"] == round(100 * (share - previous) / 3, 2)
    assert [one["end_of_life"] for one in content["data"][:2]] == ["2020-01-01", "2025-10-31"]
    whole = [*content["data"], *content["unknown"]]
    assert sum(one["share"] for one in whole) == pytest.approx(1, abs=0.001)


async def test_a_decline_has_dates_with_intervals(client: httpx.AsyncClient) -> None:
    versions = {one["version"]: one for one in (await _content(client))["data"]}
    for percent in (5, 1):
        found = versions["3.9"][f"below_{percent}_percent"]
        ahead = next(n for n in range(1000) if _logistic(0.12, -0.006, -n) < percent / 100)
        expected = days_ago(0) + timedelta(days=ahead)
        assert abs(date.fromisoformat(found["date"]) - expected) <= timedelta(days=1)
        assert found["earliest"] <= found["date"] <= found["latest"]
        assert found["reason"] is None
        for version, reason in (
            ("3.14", "The share is not clearly declining."),
            ("2.7", "The version has too few downloads."),
        ):
            assert versions[version][f"below_{percent}_percent"] == {
                "date": None,
                "earliest": None,
                "latest": None,
                "reason": reason,
            }


async def test_packages_with_few_days(client: httpx.AsyncClient) -> None:
    (version,) = (await _content(client, "new"))["data"]
    assert (version["share"], version["previous_share"]) == (1.0, None)
    assert version["change_per_month"] is None
    reason = "There are fewer than 56 days with comparable figures."
    assert version["below_5_percent"]["reason"] == reason
    response = await client.get("/api/packages/none/python_support")
    assert response.status_code == 404
    everything = await _content(client, "__all__")
    assert {one["version"] for one in everything["data"]} == {"2.7", "3.9", "3.12", "3.14"}


async def test_only_days_with_the_latest_definition_are_fitted(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    def event(ago: int) -> Event:
        return Event(
            date=days_ago(ago),
            kind=EventKind.DEFINITION,
            summary="PyPI counts less.",
            url="https://stats.example/event",
        )

    KnownEvents.__init__(app.state.events, [event(60)])
    content = await _content(client)
    assert event(60).model_dump(mode="json") in content["events"]
    old = content["data"][1]
    assert old["below_5_percent"]["date"]
    # Both shares are known, but can't be compared.
    assert old["share"] < old["previous_share"]
    assert old["change_per_month"] is None
    KnownEvents.__init__(app.state.events, [event(40)])
    old = (await _content(client))["data"][1]
    assert old["below_5_percent"]["reason"].startswith("There are fewer than 56 days")


async def test_days_counted_by_artifacts_are_compared(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    KnownEvents.__init__(app.state.events)
    version = published(app).version
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE ingested_days SET counted_files = 'artifacts'"))
    await until_known(app, version)
    old = (await _content(client))["data"][1]
    assert old["change_per_month"] < 0
    assert old["below_5_percent"]["date"]
