"""Ingests a day: copies its rows to a temporary table, judges them, then publishes or holds it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date

from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.db.steps import Step, enter
from app.domain.downloads import HeldDay, Partition, PublishedDay
from app.domain.months import Period
from app.errors import HeldDayError, IngestError, QueryLostError
from app.ingest.plan import check_ingestible
from app.ingest.publish import (
    PublishContext,
    StagedDay,
    UnchangedDay,
    must_delete_sample,
    publish_staged,
)
from app.ingest.rows import RejectedRows, RowCheck
from app.ingest.sources.source import DayRows, Source
from app.interpreter import short_switch_interval

log = logging.getLogger(__name__)


async def _record_nothing(*_: object) -> None:
    """Record nothing, for an ingest without a history."""


@dataclass(slots=True)
class IngestProgress:
    """Progress of the ingest of a period, so that another attempt can continue."""

    query: str | None = None
    """Id of the source's query, or None before it is sent."""

    partition: Partition | None = None
    """The source's partition, as it was before that query."""

    billed_query: str | None = None
    """Id of the query whose costs are recorded. Reading its result again costs nothing."""

    has_queried: bool = False
    rows: int = 0
    record_query: Callable[[str | None, Partition | None], Awaitable[None]] = _record_nothing
    record_billed: Callable[[int], Awaitable[None]] = _record_nothing


async def read_and_publish(
    context: PublishContext, source: Source, day: date, progress: IngestProgress | None = None
) -> PublishedDay | UnchangedDay:
    """Publish a day, and replace it if it was published before.

    The whole day becomes visible at once, or nothing if an exception is raised. Raises
    `HeldDayError` if the day is not plausible and is held, `ShrunkDayError` if the published day
    has more downloads and stays, or another `IngestError`.
    """
    check_ingestible(day, context.clock())
    progress = progress or IngestProgress()
    async with connect(context.engine) as connection:
        repository = IngestRepository(connection)
        origin, counted_files = await source.origin(day), source.counted_files(day)
        # Check before the source bills anything. The check is repeated under the publish lock.
        must_delete_sample(await repository.published(), origin, day, context.policy)
        # No transaction stays open while the source is read.
        await connection.commit()
        read_at = context.clock()
        if progress.query is None:
            progress.partition = await source.partition(day)
            last_read = await _unchanged(repository, context, source, day, progress)
            if last_read:
                await progress.record_query(None, progress.partition)
                # The check counts as a reading with the same result.
                await repository.record_unchanged(day, read_at)
            await context.check_lock(connection)
            await connection.commit()
            if isinstance(last_read, HeldDay):
                raise HeldDayError(day, last_read.reason)
            if last_read:
                return UnchangedDay(last_read)
        with short_switch_interval():
            rejected, reading = await stage(context, repository, source, day, progress)
        figures = await repository.figures_of_staged(
            day, origin, counted_files, progress.partition, context.policy.followed
        )
        await connection.commit()
        staged = StagedDay(
            figures,
            # A reused result is as old as its query.
            read_at=min(read_at, reading.queried_at or read_at),
            wrong_rows=rejected.counts.total(),
            fault=rejected.describe_counts(),
            fault_kind=rejected.fault_kind,
        )
        return await publish_staged(context, connection, staged)


async def is_unchanged(context: PublishContext, source: Source, day: date) -> bool:
    """Return True if a check of the day's partition shows that the day need not be read.

    Raises an `IngestError`.
    """
    async with connect(context.engine) as connection:
        repository = IngestRepository(connection)
        if day not in await repository.published() and day not in await repository.held():
            return False
        await connection.commit()
        await source.origin(day)
        progress = IngestProgress(partition=await source.partition(day))
        return bool(await _unchanged(repository, context, source, day, progress))


async def _unchanged(
    repository: IngestRepository,
    context: PublishContext,
    source: Source,
    day: date,
    progress: IngestProgress,
) -> HeldDay | PublishedDay | None:
    """Return the day as it was last read, or None if it has to be read again.

    It has to be read again if its partition has changed or is unknown, if it was never read or was
    read by another definition, or if some of its rows were wrong.
    """
    policy = context.policy
    last_read = (await repository.held()).get(day) or (await repository.published()).get(day)
    is_same = (
        last_read is not None
        and policy.only_if_changed
        and progress.partition is not None
        and last_read.partition == progress.partition
        and policy.follows_alike(last_read)
        and policy.counts_alike(day, last_read.counted_files, source.counted_files(day))
        and not (isinstance(last_read, HeldDay) and last_read.wrong_rows)
    )
    return last_read if is_same else None


async def stage(
    context: PublishContext,
    repository: IngestRepository,
    source: Source,
    period: Period,
    progress: IngestProgress,
) -> tuple[RejectedRows, DayRows]:
    """Copy the period's rows to the staging table. Return the rejected rows and the reading.

    Raises an `IngestError` if the source has no rows, unless only some packages are followed.
    """
    await repository.begin_staging()
    enter(Step.READ, period)
    reading = await _begin(source, period, progress)
    rejected = RejectedRows()
    staged_rows = 0
    check: RowCheck | None = None
    # Closing the generator closes the files and connections that the source reads from.
    async with aclosing(reading.batches) as batches:
        async for batch in batches:
            check = check or RowCheck(reading.columns, rejected)
            # Check in a thread, so that the process answers requests meanwhile.
            rows = await asyncio.to_thread(check.staged, batch)
            enter(Step.STAGE, period)
            if context.lock:
                context.lock.check()
            progress.rows += len(batch)
            await repository.stage(rows, reading.columns)
            staged_rows += len(rows)
    for fault, example in rejected.examples.items():
        count = rejected.counts[fault] or rejected.names
        log.warning("%s: rejected %d rows: %s, such as %.300r", period, count, fault, example)
    # A few packages may have no downloads on a day.
    if not staged_rows and (context.policy.followed is None or rejected.rows):
        found = f"no valid rows ({rejected.rows} rejected)" if rejected.rows else "no rows"
        raise IngestError(f"{source.name} has {found} for {period}: nothing was published")
    return rejected, reading


async def _begin(source: Source, period: Period, progress: IngestProgress) -> DayRows:
    """Start to read the result of the previous query, or of a new one if there is none."""
    if progress.query is None:
        progress.has_queried = True
        progress.query = await source.begin(period)
        await progress.record_query(progress.query, progress.partition)
    try:
        reading = await source.read(period, progress.query)
    except QueryLostError:
        progress.query = None
        raise
    if progress.query is None or progress.query != progress.billed_query:
        await progress.record_billed(reading.bytes_billed)
        progress.billed_query = progress.query
    return reading
