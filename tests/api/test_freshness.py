"""Every process learns of a publish, whichever made it, and says when it can't."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from math import isnan

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api import freshness as module
from app.api.freshness import STALE_AFTER_SECONDS, Freshness
from app.db.engine import connect, create_engine
from app.db.migrations import migrate
from app.db.publication import CHANNEL
from app.downloads import Publication, served_days
from app.errors import DatabaseUnavailableError
from tests.days import RETENTION_DAYS, days_ago, downloads, publish
from tests.waiting import until

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
async def watched(database_url: str) -> AsyncIterator[Freshness]:
    """Of another process than the one that publishes."""
    freshness = Freshness(database_url, 180, lambda _: NOON)
    watch = asyncio.create_task(freshness.watch())
    yield freshness
    watch.cancel()


def _latest(freshness: Freshness) -> date | None:
    return freshness.publication.latest_day if freshness.publication else None


async def _listeners(engine: AsyncEngine) -> list[int]:
    """The server's processes that serve a listener of this database."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND query LIKE '%string_agg%'"
    )
    async with connect(engine) as connection:
        return list(await connection.scalars(text(query)))


async def test_a_publish_is_heard_of_at_once(
    watched: Freshness, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 3600.0)
    await until(lambda: _listeners(engine))
    await publish(engine, days_ago(1), downloads("flask", 1))
    await until(lambda: _latest(watched))
    await publish(engine, days_ago(0), downloads("flask", 2))
    assert await until(lambda: _latest(watched) == days_ago(0)) < 2


async def test_what_was_not_heard_is_found(
    watched: Freshness, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that passes no announcement on."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.2)
    await publish(engine, days_ago(1), downloads("flask", 1))
    await until(lambda: _latest(watched))
    async with connect(engine) as connection:
        await connection.execute(text(f"UPDATE ingested_days SET digest = '{CHANNEL}'"))
        await connection.commit()
    known = watched.publication
    await until(lambda: watched.publication != known)


async def test_a_lost_connection_is_made_anew(
    watched: Freshness,
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 3600.0)
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.1)
    await publish(engine, days_ago(1), downloads("flask", 1))
    await until(lambda: _latest(watched))
    (lost,) = await _listeners(engine)
    async with connect(engine) as connection:
        await connection.execute(text(f"SELECT pg_terminate_backend({lost})"))

    async def is_replaced() -> bool:
        return lost not in await _listeners(engine) != []

    await until(is_replaced)
    await publish(engine, days_ago(0), downloads("flask", 2))
    await until(lambda: _latest(watched) == days_ago(0))
    assert caplog.text.count("answers may grow stale") == 1


@pytest.mark.usefixtures("known_days")
async def test_what_can_not_be_confirmed_is_served_as_stale(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away: what is known is still answered, and says how old it may be."""
    fresh = await client.get("/api/packages/requests/recent")
    assert "age" not in fresh.headers

    async def fail(_: str) -> None:
        raise DatabaseUnavailableError("away")

    monkeypatch.setattr(app.state.repositories.downloads, "recent", fail)
    monkeypatch.setattr(app.state.freshness, "_confirmed", app.state.freshness._confirmed - 100)
    stale = await client.get("/api/packages/requests/recent")
    assert stale.status_code == 200
    assert stale.content == fresh.content
    assert 100 <= int(stale.headers["age"]) <= 110
    assert f"max-age={STALE_AFTER_SECONDS}," in stale.headers["cache-control"]
    headers = {"If-None-Match": fresh.headers["etag"]}
    again = await client.get("/api/packages/requests/recent", headers=headers)
    assert again.status_code == 304
    assert int(again.headers["age"]) >= 100
    unknown = await client.get("/api/packages/zope-interface/recent")
    assert unknown.status_code == 503
    assert int(unknown.headers["retry-after"]) > 0


def _published(day: date) -> Publication:
    return Publication(
        counted_files={},
        days=(day,),
        window=served_days(day, RETENTION_DAYS),
        published_at=NOON,
        version="version",
        held_days=0,
    )


@pytest.mark.parametrize(
    ("due_in", "max_age"),
    [
        (timedelta(hours=5), 5 * 3600),
        (timedelta(days=40), 24 * 3600),
        (timedelta(seconds=1), 60),
        (timedelta(hours=-3), 60),
    ],
)
def test_how_long_an_answer_can_be_kept(due_in: timedelta, max_age: int) -> None:
    freshness = Freshness("", 180, lambda _: datetime.now(UTC) + due_in)
    freshness.confirm(_published(days_ago(0)))
    ((name, value),) = freshness.headers()
    told = int(value.partition(b"max-age=")[2].partition(b",")[0])
    assert name == b"cache-control"
    assert max_age - 2 <= told <= max_age


def test_the_age_of_the_data() -> None:
    freshness = Freshness("", 180, lambda _: NOON)
    assert isnan(freshness.figures().age_days)
    freshness.confirm(_published(days_ago(3)))
    assert 3 <= freshness.figures().age_days <= 4


async def test_a_database_that_comes_later_is_found(
    database_url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.05)
    later = f"{engine.url.database}_later"
    url = make_url(database_url).set(database=later).render_as_string(hide_password=False)
    freshness = Freshness(url, 180, lambda _: NOON)
    watch = asyncio.create_task(freshness.watch())
    await asyncio.sleep(0.3)
    assert not watch.done()
    admin = create_engine(database_url, autocommit=True)
    async with connect(admin) as connection:
        await connection.execute(text(f"CREATE DATABASE {later}"))
    there = create_engine(url)
    await migrate(there)
    await publish(there, days_ago(0), downloads("flask", 1))
    await until(lambda: _latest(freshness) == days_ago(0))
    watch.cancel()
    await there.dispose()
    async with connect(admin) as connection:
        await connection.execute(text(f"DROP DATABASE {later} WITH (FORCE)"))
    await admin.dispose()
