"""Comparisons of two periods, which need days that are counted by the same definition."""

from collections.abc import AsyncIterator
from datetime import date, timedelta

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import create_engine
from app.domain.events import ARTIFACTS_SINCE, Event, EventKind, KnownEvents
from app.main import Service, create_app
from app.settings import IngestSource, Settings
from tests.days import downloads, publish
from tests.waiting import published, until, until_known

LATEST = ARTIFACTS_SINCE - timedelta(days=30)
"""Two months that no known event is in."""


def _ago(days: int) -> date:
    return LATEST - timedelta(days=days)


@pytest.fixture(scope="module")
async def engine(module_database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(module_database_url)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def app(module_database_url: str, engine: AsyncEngine) -> AsyncIterator[Service]:
    """The service without stored responses, and with 60 days of a package that grows."""
    for ago in range(59, -1, -1):
        await publish(engine, _ago(ago), downloads("flask", 20_000 - 10 * ago))
    settings = Settings(rate_limits="", ingest_source=IngestSource.NONE, response_cache_max_bytes=0)
    app = create_app(settings, module_database_url)
    async with app.running():
        await until(lambda: app.dispatcher.publication_watch.publication)
        yield app


async def _compared(app: Service, client: httpx.AsyncClient, *events: Event) -> tuple[bool, ...]:
    """Return whether weeks, months and trending packages are compared."""
    KnownEvents.__init__(app.state.events, events)
    change = (await client.get("/api/packages/flask")).json()["data"]["change"]
    trending = (await client.get("/api/trending")).json()["data"]
    return change["week"] is not None, change["month"] is not None, trending != []


def _event(kind: EventKind, first: int, last: int | None = None) -> Event:
    end = None if last is None else _ago(last)
    address = "https://stats.example/event"
    return Event(date=_ago(first), end_date=end, kind=kind, summary="Counts change.", url=address)


@pytest.mark.parametrize(
    ("ago", "week", "month"),
    [
        (60, True, True),
        # On the first day of the earlier month, on its last, and on the first of the later.
        (59, True, False),
        (30, True, False),
        (29, True, False),
        (14, True, False),
        # The same of the weeks.
        (13, False, False),
        (7, False, False),
        (6, False, False),
        (0, False, False),
        (-1, True, True),
    ],
)
async def test_periods_are_not_compared_across_a_definition(
    app: Service, client: httpx.AsyncClient, ago: int, week: bool, month: bool
) -> None:
    event = _event(EventKind.DEFINITION, ago)
    assert await _compared(app, client, event) == (week, month, week)


async def test_a_definition_for_some_days(app: Service, client: httpx.AsyncClient) -> None:
    """Periods around it, and those wholly in it, are compared."""
    assert await _compared(app, client, _event(EventKind.DEFINITION, 40, 20)) == (True, False, True)
    assert await _compared(app, client, _event(EventKind.DEFINITION, 90, 60)) == (True, True, True)
    assert await _compared(app, client, _event(EventKind.DEFINITION, 90, 59)) == (True, False, True)
    assert await _compared(app, client, _event(EventKind.DEFINITION, 14, -1)) == (True, False, True)


async def test_outages_do_not_matter(app: Service, client: httpx.AsyncClient) -> None:
    assert await _compared(app, client, _event(EventKind.OUTAGE, 7, 6)) == (True, True, True)


async def test_periods_counted_by_artifacts_are_compared_across_the_change(
    app: Service,
    client: httpx.AsyncClient,
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change = _ago(5)
    monkeypatch.setattr("app.domain.events.ARTIFACTS_SINCE", change)
    event = _event(EventKind.DEFINITION, 5)
    assert await _compared(app, client, event) == (False, False, False)

    async def count_artifacts(days: str) -> None:
        version = published(app).version
        async with engine.begin() as connection:
            rule = "UPDATE ingested_days SET counted_files = 'artifacts' WHERE"
            await connection.execute(text(f"{rule} {days}"), {"change": change})
        await until_known(app, version)

    # The day of the change is counted partly by each rule.
    await count_artifacts("day < :change")
    assert await _compared(app, client, event) == (False, False, False)
    await count_artifacts("day = :change")
    assert await _compared(app, client, event) == (True, True, True)
    # Later days are counted by artifacts in any case.
    await count_artifacts("day > :change")
    assert await _compared(app, client, event) == (True, True, True)
