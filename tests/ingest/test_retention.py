"""Tests of retention: expired days are dropped in one transaction, and answers do not change."""

import asyncio
from dataclasses import replace
from datetime import date, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import partitions
from app.db.advisory_lock import LockKey, lock_for_transaction
from app.db.engine import connect
from app.db.partitions import drop_partitions_before
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.runs_repository import RunsRepository, latest_runs
from app.db.tables import daily_downloads
from app.domain.downloads import RecentDownloads
from app.domain.package_name import ALL_PACKAGES
from app.errors import DatabaseUnavailableError, HeldDayError, TableInUseError
from app.ingest import retention
from app.ingest.retention import RetentionResult, expire
from tests.clock import NOW
from tests.contents import everything
from tests.days import (
    POLICY,
    RETENTION_DAYS,
    GivenSource,
    days_ago,
    downloads,
    ingest,
    overall,
    publish,
)
from tests.waiting import PATIENCE_SECONDS, until_blocked


async def expire_now(engine: AsyncEngine, retention_days: int = RETENTION_DAYS) -> RetentionResult:
    """Apply retention without stored months, which `test_rollup.py` tests."""
    policy = replace(POLICY, retention_days=retention_days, keep_months=0)
    return await expire(engine, policy, NOW)


def repository(engine: AsyncEngine) -> DownloadsRepository:
    return DownloadsRepository(engine, RETENTION_DAYS)


async def test_exactly_the_window_is_served(engine: AsyncEngine) -> None:
    """The first of its days is, the day before is not, whether or not retention has run."""
    first, before = days_ago(RETENTION_DAYS - 1), days_ago(RETENTION_DAYS)
    # The window ends with the latest published day, so the older day goes in first.
    await publish(engine, before, downloads("flask", 1), downloads("gone", 1))
    await publish(engine, first, downloads("flask", 2))
    assert await repository(engine).recent("gone") == RecentDownloads(0, 1, 1)
    await publish(engine, days_ago(0), downloads("flask", 4))

    read = repository(engine)
    for _ in range(2):
        series = await overall(engine, "flask")
        assert series
        assert series["without_mirrors"] == [(first, 2), (days_ago(0), 4)]
        assert await read.recent("gone") is None
        assert await overall(engine, "gone") is None
        assert [day.day for day in await read.published_days()] == [first, days_ago(0)]
        await expire_now(engine)


async def test_retention_drops_months_outside_of_the_window(
    engine: AsyncEngine, connection: AsyncConnection
) -> None:
    old = days_ago(RETENTION_DAYS + 31)
    await publish(engine, old, downloads("flask", 1), downloads("gone", 1))
    await publish(engine, days_ago(0), downloads("flask", 4))
    expired = await expire_now(engine)
    assert expired.partitions == [f"daily_downloads_{old:%Y_%m}"]
    assert expired.packages == 1

    assert await connection.scalar(text(f"SELECT to_regclass('{expired.partitions[0]}')")) is None
    held = await everything(engine)
    assert [row[0] for row in held["days"]] == [days_ago(0)]
    assert [row[0] for row in held["packages"]] == [ALL_PACKAGES, "flask"]

    again = await expire_now(engine)
    assert (again.partitions, again.packages) == ([], 0)
    assert await everything(engine) == held


@pytest.mark.parametrize(
    ("latest", "dropped"),
    [
        # With 30 days, the first served is the first of a month, or the last of the one before it.
        (date(2026, 1, 30), ["daily_downloads_2025_12"]),
        (date(2026, 1, 29), []),
        (date(2026, 1, 1), []),
        (date(2025, 12, 31), []),
    ],
)
async def test_a_month_is_dropped_with_its_last_day(
    engine: AsyncEngine, latest: date, dropped: list[str]
) -> None:
    for day in (date(2025, 12, 31), latest):
        await publish(engine, day, downloads("flask", 1))
    before = await overall(engine, "flask", retention_days=30)
    assert (await expire_now(engine, 30)).partitions == dropped
    assert await overall(engine, "flask", retention_days=30) == before
    assert len((await everything(engine))["days"]) == len({date(2025, 12, 31), latest}) - len(
        dropped
    )


async def test_a_package_stays_while_a_month_with_its_rows_stays(engine: AsyncEngine) -> None:
    """The day is outside the window and not served, but its rows still exist."""
    await publish(engine, date(2025, 12, 30), downloads("outside", 1))
    await publish(engine, date(2026, 1, 29), downloads("flask", 1))
    before = await everything(engine)
    await expire_now(engine, 30)
    assert await everything(engine) == before
    assert await DownloadsRepository(engine, 30).recent("outside") is None


async def test_retention_deletes_held_days_and_runs(engine: AsyncEngine) -> None:
    """Held days outside the window are deleted, and runs that are older than the window."""
    for ago in (10, 3):
        await publish(engine, days_ago(ago), downloads("flask", 100))
        day = days_ago(ago + 28)
        with pytest.raises(HeldDayError):
            await ingest(engine, GivenSource({day: [downloads("flask", 1)]}), day, POLICY)
    runs = RunsRepository(engine)
    for days in (30, 32):
        await runs.begin(days_ago(0), "given", NOW - timedelta(days=days))
    await expire_now(engine, 31)
    held = await everything(engine)
    assert [row[0] for row in held["held days"]] == [days_ago(31)]
    assert {row[0] for row in held["held rows"]} == {days_ago(31)}
    (left,) = await latest_runs(engine, 10)
    assert left.started_at == NOW - timedelta(days=30)
    await expire_now(engine, 28)
    assert (await everything(engine))["held rows"] == []
    assert await latest_runs(engine, 10) == []


async def test_retention_of_an_empty_database(engine: AsyncEngine) -> None:
    expired = await expire_now(engine)
    assert (expired.partitions, expired.packages) == ([], 0)


async def test_retention_and_publish_exclude_each_other(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    async with connect(engine) as other:
        await lock_for_transaction(other, LockKey.PUBLISH)
        expiring = asyncio.create_task(expire_now(engine))
        await until_blocked(engine)
        assert not expiring.done()
        await other.rollback()
        await expiring


async def test_several_retentions_at_once(engine: AsyncEngine) -> None:
    old = days_ago(RETENTION_DAYS + 31)
    await publish(engine, old, downloads("gone", 1))
    await publish(engine, days_ago(0), downloads("flask", 4))
    expired = await asyncio.gather(*(expire_now(engine) for _ in range(3)))
    assert sum(len(one.partitions) for one in expired) == 1


async def test_a_long_reader_delays_only_retention(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "EXPIRE_TRIES", 2)
    monkeypatch.setattr(retention, "EXPIRE_PAUSE_SECONDS", 0.1)
    await publish(engine, days_ago(RETENTION_DAYS + 31), downloads("gone", 1))
    await publish(engine, days_ago(0), downloads("flask", 4))
    before = await everything(engine)
    async with connect(engine) as reader:
        await reader.execute(select(daily_downloads).limit(1))
        with pytest.raises(TableInUseError):
            await expire_now(engine)
        assert await everything(engine) == before
        await publish(engine, days_ago(1), downloads("flask", 1))
        assert await repository(engine).recent("flask") == RecentDownloads(4, 5, 5)
    expired = await expire_now(engine)
    assert (len(expired.partitions), expired.packages) == (1, 1)


async def test_retention_that_is_cancelled_does_not_blame_readers(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT_MILLISECONDS", int(PATIENCE_SECONDS) * 1_000)
    await publish(engine, days_ago(RETENTION_DAYS + 31), downloads("gone", 1))
    await publish(engine, days_ago(0), downloads("flask", 4))
    before = await everything(engine)
    async with connect(engine) as reader:
        await reader.execute(select(daily_downloads).limit(1))
        expiring = asyncio.create_task(expire_now(engine))
        await until_blocked(engine)
        await reader.execute(
            text(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
        with pytest.raises(DatabaseUnavailableError, match="canceling statement"):
            await expiring
    assert await everything(engine) == before


async def test_retention_that_fails_at_its_end_removes_nothing(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(engine, days_ago(RETENTION_DAYS + 31), downloads("gone", 1))
    await publish(engine, days_ago(0), downloads("flask", 4))
    before = await everything(engine)

    async def drop_and_fail(connection: AsyncConnection, first_day: date) -> list[str]:
        assert await drop_partitions_before(connection, first_day)
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(retention, "drop_partitions_before", drop_and_fail)
        with pytest.raises(ConnectionError):
            await expire_now(engine)
    assert await everything(engine) == before
