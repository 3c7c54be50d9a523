"""Ingests a day: copies its rows to a temporary table, judges them, then publishes or holds it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date, datetime

from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.db.steps import Step, enter
from app.domain.downloads import HeldDay, Partition, PublishedDay
from app.errors import HeldDayError, IngestError, QueryLostError
from app.ingest.plan import check_counted
from app.ingest.publish import Publisher, StagedDay, UnchangedDay, check_admissible, publish_staged
from app.ingest.rows import Rejected, RowCheck
from app.ingest.sources.source import Reading, Source
from app.interpreter import short_switch_interval

log = logging.getLogger(__name__)


async def _note_nothing(*_: object) -> None:
    """Record nothing, for an ingest without a history."""


@dataclass(slots=True)
class Progress:
    """Progress of the ingest of a day, so that another attempt can continue."""

    query: str | None = None
    """Id of the source's query for the day, or None before it is sent."""

    partition: Partition | None = None
    """The source's partition, as it was before that query."""

    billed_query: str | None = None
    """Id of the query whose costs are recorded. Reading its result again costs nothing."""

    has_queried: bool = False
    rows: int = 0
    note_query: Callable[[str | None, Partition | None], Awaitable[None]] = _note_nothing
    note_billed: Callable[[int], Awaitable[None]] = _note_nothing


async def ingest_day(
    publisher: Publisher, source: Source, day: date, progress: Progress | None = None
) -> PublishedDay | UnchangedDay:
    """Publish a day, and replace it if it was published before.

    The whole day becomes visible at once, or nothing if an exception is raised. Raises
    `HeldDayError` if the day is not plausible and is held, `ShrunkDayError` if the published day
    has more downloads and stays, or another `IngestError`.
    """
    check_counted(day, publisher.clock())
    progress = progress or Progress()
    async with connect(publisher.engine) as connection:
        repository = IngestRepository(connection)
        origin, counted_files = await source.origin(day), source.counted_files(day)
        # Check before the source bills anything. The check is repeated under the publish lock.
        check_admissible(await repository.published(), origin, day, publisher.policy)
        # No transaction stays open while the source is read.
        await connection.commit()
        read_at = publisher.clock()
        if progress.query is None:
            progress.partition = await source.partition(day)
            last_read = await _unchanged(repository, publisher, source, day, progress)
            if last_read:
                await progress.note_query(None, progress.partition)
                # The check counts as a reading with the same result.
                await repository.note_unchanged(day, read_at)
            await publisher.check_lock(connection)
            await connection.commit()
            if isinstance(last_read, HeldDay):
                raise HeldDayError(day, last_read.reason)
            if last_read:
                return UnchangedDay(last_read)
        with short_switch_interval():
            rejected, queried_at = await _stage(publisher, repository, source, day, progress)
        figures = await repository.figures_of_staged(day, origin, counted_files, progress.partition)
        await connection.commit()
        staged = StagedDay(
            figures,
            # A reused result is as old as its query.
            read_at=min(read_at, queried_at or read_at),
            wrong_rows=rejected.counts.total(),
            fault=rejected.describe_counts(),
            problem=rejected.problem,
        )
        return await publish_staged(publisher, connection, staged)


async def is_unchanged(publisher: Publisher, source: Source, day: date) -> bool:
    """Return True if a check of the day's partition shows that the day need not be read.

    Raises an `IngestError`.
    """
    async with connect(publisher.engine) as connection:
        repository = IngestRepository(connection)
        if day not in await repository.published() and day not in await repository.held():
            return False
        await connection.commit()
        await source.origin(day)
        progress = Progress(partition=await source.partition(day))
        return bool(await _unchanged(repository, publisher, source, day, progress))


async def _unchanged(
    repository: IngestRepository,
    publisher: Publisher,
    source: Source,
    day: date,
    progress: Progress,
) -> HeldDay | PublishedDay | None:
    """Return the day as it was last read, or None if it has to be read again.

    It has to be read again if its partition has changed or is unknown, if it was never read or was
    read by another definition, or if some of its rows were wrong.
    """
    policy = publisher.policy
    last_read = (await repository.held()).get(day) or (await repository.published()).get(day)
    is_same = (
        last_read is not None
        and policy.only_if_changed
        and progress.partition is not None
        and last_read.partition == progress.partition
        and policy.counts_alike(day, last_read.counted_files, source.counted_files(day))
        and not (isinstance(last_read, HeldDay) and last_read.wrong_rows)
    )
    return last_read if is_same else None


async def _stage(
    publisher: Publisher,
    repository: IngestRepository,
    source: Source,
    day: date,
    progress: Progress,
) -> tuple[Rejected, datetime | None]:
    """Copy the day's rows to the staging table. Return the rejected rows and the query's time.

    Raises an `IngestError` if the source has no rows.
    """
    await repository.begin_staging()
    enter(Step.READ, day)
    reading = await _begin(source, day, progress)
    rejected = Rejected()
    staged_rows = 0
    check: RowCheck | None = None
    # Closing the generator closes the files and connections that the source reads from.
    async with aclosing(reading.batches) as batches:
        async for batch in batches:
            check = check or RowCheck(reading.columns, rejected)
            # Check in a thread, so that the process answers requests meanwhile.
            rows = await asyncio.to_thread(check.staged, batch)
            enter(Step.STAGE, day)
            if publisher.lock:
                publisher.lock.check()
            progress.rows += len(batch)
            await repository.stage(rows, reading.columns)
            staged_rows += len(rows)
    for fault, example in rejected.examples.items():
        count = rejected.counts[fault] or rejected.names
        log.warning("%s: rejected %d rows: %s, such as %.300r", day, count, fault, example)
    if not staged_rows:
        found = f"no valid rows ({rejected.rows} rejected)" if rejected.rows else "no rows"
        raise IngestError(f"{source.name} has {found} for {day}: nothing was published")
    return rejected, reading.queried_at


async def _begin(source: Source, day: date, progress: Progress) -> Reading:
    """Start to read the result of the previous query, or of a new one if there is none."""
    if progress.query is None:
        progress.has_queried = True
        progress.query = await source.begin(day)
        await progress.note_query(progress.query, progress.partition)
    try:
        reading = await source.read(day, progress.query)
    except QueryLostError:
        progress.query = None
        raise
    if progress.query is None or progress.query != progress.billed_query:
        await progress.note_billed(reading.bytes_billed)
        progress.billed_query = progress.query
    return reading
