"""Copies a day's rows from a source to a temporary table, and checks them on the way."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date, datetime

from app.db.repositories.ingest_repository import IngestRepository
from app.db.steps import Step, enter
from app.domain.downloads import Partition
from app.errors import IngestError, QueryLostError
from app.ingest.publish import Publisher
from app.ingest.rows import Rejected, RowCheck
from app.ingest.sources.source import Reading, Source

log = logging.getLogger(__name__)


async def _note_nothing(*_: object) -> None:
    """Record nothing, for an ingest without a history."""


@dataclass(slots=True)
class Progress:
    """Progress of the ingest of a day, so that another attempt can continue."""

    query: str | None = None
    """Id of the source's query for the day, or None before it is sent."""

    partition: Partition | None = None
    """The source's partition before that query."""

    billed_query: str | None = None
    """Id of the query whose bill is recorded. Reading its result again costs nothing."""

    has_queried: bool = False
    """True after a query was sent, which is billed."""

    rows: int = 0
    note_query: Callable[[str | None, Partition | None], Awaitable[None]] = _note_nothing
    note_billed: Callable[[int], Awaitable[None]] = _note_nothing


@dataclass(frozen=True, slots=True)
class Staged:
    rejected: Rejected
    queried_at: datetime | None
    """Time of the query, or None for a source without queries."""


async def stage(
    publisher: Publisher,
    repository: IngestRepository,
    source: Source,
    day: date,
    progress: Progress,
) -> Staged:
    """Copy the day's rows. Raises an `IngestError` if the source has none."""
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
            # Run in a thread, so that the process answers requests meanwhile.
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
    return Staged(rejected, reading.queried_at)


async def _begin(source: Source, day: date, progress: Progress) -> Reading:
    """Start to read the result of the previous query or, if there is none, of a new one."""
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
