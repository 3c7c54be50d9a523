"""Drops the days that are no longer served, after their months were rolled up."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect
from app.db.partitions import drop_partitions_before, first_kept_day
from app.db.repositories.ingest_repository import IngestRepository
from app.db.repositories.months_repository import MonthsRepository
from app.db.repositories.runs_repository import RunsRepository
from app.db.steps import Step, enter
from app.domain.downloads import served_days
from app.domain.months import month_of
from app.errors import TableInUseError
from app.ingest.policy import PublishPolicy
from app.ingest.publish import record_suspects
from app.ingest.rollup import due_months, first_kept_month

EXPIRE_TRIES = 10
EXPIRE_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RetentionResult:
    partitions: Sequence[str]
    packages: int
    months: Sequence[date] = ()
    """Stored months that were deleted because of KEEP_MONTHS."""

    def __str__(self) -> str:
        dropped = ", ".join(self.partitions) or "no month"
        months = f"{len(self.months)} stored months and " if self.months else ""
        return f"dropped {dropped}, deleted {months}{self.packages:,} packages"


async def expire(engine: AsyncEngine, policy: PublishPolicy, now: datetime) -> RetentionResult:
    """Drop the days of months before the window, and delete older held days, the stored months
    beyond KEEP_MONTHS, and packages without rows.

    A month whose roll-up is due keeps its days, and so do later months. The same transaction
    records again which days are suspect, because their neighbours, the events or the limits may
    have changed. The history of older runs is deleted as well. Raises `TableInUseError` if readers
    blocked every attempt.
    """
    await RunsRepository(engine).delete_before(now - timedelta(days=policy.retention_days))
    for _ in range(EXPIRE_TRIES - 1):
        with suppress(TableInUseError):
            return await _expire(engine, policy)
        await asyncio.sleep(EXPIRE_PAUSE_SECONDS)
    return await _expire(engine, policy)


async def _expire(engine: AsyncEngine, policy: PublishPolicy) -> RetentionResult:
    async with connect(engine) as connection:
        repository = IngestRepository(connection)
        latest = await repository.latest_day()
        if latest is None:
            return RetentionResult([], 0)
        await repository.lock_publish(latest)
        # A publish may have been committed while this transaction waited for the lock.
        latest = await repository.latest_day() or latest
        first_served = served_days(latest, policy.retention_days).first
        await repository.delete_held_before(first_served)
        await record_suspects(repository, policy)
        months = MonthsRepository(connection)
        published, stored = await repository.published(), await months.stored()
        due = due_months(published, stored, policy)
        first_served = min([first_served, *(one.month for one in due)])
        deleted = await months.delete_before(first_kept_month(latest, policy))
        first_kept = await first_kept_day(connection, first_served)
        gone = await repository.delete_before(first_kept) if first_kept else 0
        # Days of months that are not stored are served until they are dropped.
        dropped_days = (day for day in published if first_kept and day < first_kept)
        if deleted or any(month_of(day) not in stored for day in dropped_days):
            await repository.announce(latest)
        # Drop the partitions last, because readers have to wait from here to the commit.
        enter(Step.DROP, first_served)
        dropped = await drop_partitions_before(connection, first_served)
        enter(Step.COMMIT_RETENTION, first_served)
        await connection.commit()
        return RetentionResult(dropped, gone, deleted)
