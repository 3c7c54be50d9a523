"""Every process learns of a publish, whichever made it, and says when it can't."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from math import isnan
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect, create_engine
from app.db.migrations import migrate
from app.db.publication import CHANNEL, publication_listener
from app.domain.clock import utc_now
from app.domain.downloads import Publication, served_days
from app.domain.events import CountedFiles
from app.errors import DatabaseUnavailableError
from app.main import Service
from app.metrics import PublicationMetrics
from app.serving import publication_watch as module
from app.serving.publication_watch import STALE_AFTER_SECONDS, PublicationWatch
from tests.days import days_ago, downloads, publish
from tests.waiting import until

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
async def watched(database_url: str) -> AsyncIterator[PublicationWatch]:
    """The freshness of a process that does not publish itself."""
    publication_watch = PublicationWatch(database_url, 180, lambda _: NOON, utc_now)
    watch = asyncio.create_task(publication_watch.watch())
    yield publication_watch
    watch.cancel()


def _latest(publication_watch: PublicationWatch) -> date | None:
    return publication_watch.publication.latest_day if publication_watch.publication else None


async def _listeners(engine: AsyncEngine) -> list[int]:
    """The server's processes that serve a listener of this database."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND query LIKE '%string_agg%'"
    )
    async with connect(engine) as connection:
        return list(await connection.scalars(text(query)))


async def test_a_publish_is_announced_at_once(
    watched: PublicationWatch, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 3600.0)
    await until(lambda: _listeners(engine))
    await publish(engine, days_ago(1), downloads("flask", 1))
    await until(lambda: _latest(watched))
    await publish(engine, days_ago(0), downloads("flask", 2))
    await until(lambda: _latest(watched) == days_ago(0))


async def test_a_check_finds_a_publish_without_announcement(
    watched: PublicationWatch, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler in front of the database may drop announcements."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.2)
    await publish(engine, days_ago(1), downloads("flask", 1))
    await until(lambda: _latest(watched))
    async with connect(engine) as connection:
        await connection.execute(text(f"UPDATE ingested_days SET digest = '{CHANNEL}'"))
        await connection.commit()
    known = watched.publication
    await until(lambda: watched.publication != known)


async def test_a_lost_connection_is_replaced(
    watched: PublicationWatch,
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
    assert caplog.text.count("responses may become stale") == 1


@pytest.mark.usefixtures("known_days")
async def test_an_unconfirmed_publication_is_served_as_stale(
    app: Service, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away: what is known is still answered, and says how old it may be."""
    fresh = await client.get("/api/packages/requests/recent")
    assert "age" not in fresh.headers

    async def fail(_: str) -> None:
        raise DatabaseUnavailableError("away")

    monkeypatch.setattr(app.state.statistics.downloads, "recent", fail)
    monkeypatch.setattr(
        app.dispatcher.publication_watch,
        "_confirmed_at",
        app.dispatcher.publication_watch._confirmed_at - 100,
    )
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


def _published(**changes: Any) -> Publication:
    """All days but those that the test changes."""
    window = served_days(date(2026, 11, 21), 30)
    days = tuple(window.first + timedelta(days=number) for number in range(30))
    complete = Publication(
        days=days,
        counted_files=dict.fromkeys(days, CountedFiles.ALL),
        window=window,
        published_at=NOON - timedelta(hours=10),
        version="version",
        held_days=0,
    )
    return replace(complete, **changes)


def _headers(due_in: timedelta, current: Publication, seen: Publication) -> dict[bytes, bytes]:
    publication_watch = PublicationWatch("", 30, lambda _: NOON + due_in, lambda: NOON)
    publication_watch.confirm(current)
    return dict(publication_watch.headers(seen, NOON))


def _max_age(headers: dict[bytes, bytes]) -> int:
    return int(headers[b"cache-control"].partition(b"max-age=")[2].partition(b",")[0])


@pytest.mark.parametrize(
    ("due_in", "max_age"),
    [
        (timedelta(hours=5), 5 * 3600),
        (timedelta(days=40), 24 * 3600),
        (timedelta(seconds=1), 60),
        (timedelta(hours=-3), 60),
    ],
)
def test_max_age_lasts_until_the_next_day_is_due(due_in: timedelta, max_age: int) -> None:
    headers = _headers(due_in, _published(), _published())
    assert _max_age(headers) == max_age
    assert headers[b"last-modified"] == b"Sun, 22 Nov 2026 02:00:00 GMT"
    assert headers[b"x-data-as-of"] == b"2026-11-21"
    assert b"age" not in headers


@pytest.mark.parametrize(
    ("recheck_after_hours", "max_age"),
    [(0, 5 * 3600), (6, 5 * 3600), (12, 60), (14, 2 * 3600), (24 + 15, 3 * 3600), (48, 5 * 3600)],
)
def test_max_age_ends_when_a_day_is_checked_again(recheck_after_hours: float, max_age: int) -> None:
    recheck_after = timedelta(hours=recheck_after_hours)
    due_at = NOON + timedelta(hours=5)
    publication_watch = PublicationWatch("", 30, lambda _: due_at, lambda: NOON, recheck_after)
    publication_watch.confirm(_published())
    assert _max_age(dict(publication_watch.headers(_published(), NOON))) == max_age


@pytest.mark.parametrize(
    "changes",
    [
        {"held_days": 1},
        {"suspect_days": 1},
        {"days": _published().days[1:]},
        {"days": _published().days[-1:]},
    ],
)
def test_max_age_is_short_while_days_are_held_suspect_or_missing(changes: dict[str, Any]) -> None:
    changed = _published(**changes)
    assert _max_age(_headers(timedelta(hours=5), changed, changed)) == 60


def test_max_age_is_short_for_another_publication() -> None:
    """The publication of the response may be older or newer than that of the process."""
    other = _published(version="other", published_at=NOON)
    headers = _headers(timedelta(hours=5), _published(), other)
    assert _max_age(headers) == 60
    assert headers[b"last-modified"] == b"Sun, 22 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(("seconds_ahead", "is_sent"), [(0, True), (1, False)])
def test_last_modified_is_never_ahead_of_the_clock(seconds_ahead: int, is_sent: bool) -> None:
    published = _published(published_at=NOON + timedelta(seconds=seconds_ahead))
    headers = _headers(timedelta(hours=5), published, published)
    assert (b"last-modified" in headers) == is_sent
    assert _max_age(headers) == 60


def test_the_age_of_the_data() -> None:
    publication_watch = PublicationWatch("", 30, lambda _: NOON, lambda: NOON)
    assert isnan(publication_watch.publication_metrics().data_age_seconds)
    publication_watch.confirm(_published())
    assert publication_watch.publication_metrics() == PublicationMetrics(12 * 3600, 0, 0, 0)


async def test_a_database_that_is_unusable_is_logged_once(
    database_url: str,
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The database can be reached, but every query fails."""
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.01)
    caplog.set_level("INFO", "app")
    tries = 0
    listen = publication_listener

    def count_and_listen(*arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        return listen(*arguments)

    async def rename(old: str, new: str) -> None:
        async with engine.begin() as connection:
            await connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

    monkeypatch.setattr(module, "publication_listener", count_and_listen)
    await publish(engine, days_ago(0), downloads("flask", 1))
    await rename("ingested_days", "mislaid")
    publication_watch = PublicationWatch(database_url, 180, lambda _: NOON, utc_now)
    watch = asyncio.create_task(publication_watch.watch())
    await until(lambda: tries > 5)
    (failure,) = caplog.records
    assert "responses may become stale" in failure.message
    assert failure.exc_info
    await rename("mislaid", "ingested_days")
    await until(lambda: _latest(publication_watch))
    watch.cancel()
    assert [record.message for record in caplog.records[1:]] == ["the database is back"]


async def test_a_database_that_starts_later_is_found(
    database_url: str,
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.05)
    later = f"{make_url(database_url).database}_later"
    url = make_url(database_url).set(database=later).render_as_string(hide_password=False)
    publication_watch = PublicationWatch(url, 180, lambda _: NOON, utc_now)
    watch = asyncio.create_task(publication_watch.watch())
    await until(lambda: "responses may become stale" in caplog.text)
    async with connect(engine) as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(f"CREATE DATABASE {later}"))
    there = create_engine(url)
    await migrate(there)
    await publish(there, days_ago(0), downloads("flask", 1))
    await until(lambda: _latest(publication_watch) == days_ago(0))
    watch.cancel()
    await there.dispose()
    async with connect(engine) as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(f"DROP DATABASE {later} WITH (FORCE)"))
