"""Ingests a day: stage its rows, judge them, then publish or hold the day."""

from datetime import date

from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.domain.downloads import HeldDay, PublishedDay
from app.errors import HeldDayError
from app.ingest.plan import check_counted
from app.ingest.publish import (
    Publisher,
    StagedDay,
    UnchangedDay,
    check_admissible,
    publish_staged,
)
from app.ingest.sources.source import Source
from app.ingest.stage import Progress, stage
from app.interpreter import short_turns


async def ingest_day(
    publisher: Publisher, source: Source, day: date, progress: Progress | None = None
) -> PublishedDay | UnchangedDay:
    """Publish a day, and replace it if it was published before.

    All of the day becomes visible at once, or nothing if an exception is raised. A day that does
    not look plausible is held, and `HeldDayError` is raised. A published day with more downloads
    stays, and `ShrunkDayError` is raised. Raises an `IngestError`.
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
        with short_turns():
            staged = await stage(publisher, repository, source, day, progress)
        figures = await repository.figures_of_staged(day, origin, counted_files, progress.partition)
        await connection.commit()
        staged_day = StagedDay(
            figures,
            # The result of an earlier query is as old as that query.
            read_at=min(read_at, staged.queried_at or read_at),
            wrong_rows=staged.rejected.counts.total(),
            fault=staged.rejected.describe_counts(),
            problem=staged.rejected.problem,
        )
        return await publish_staged(publisher, connection, staged_day)


async def is_unchanged(publisher: Publisher, source: Source, day: date) -> bool:
    """Return True if a check of the day's partition finds that there is nothing to read.

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
    if not (policy.only_if_changed and progress.partition):
        return None
    last_read = (await repository.held()).get(day) or (await repository.published()).get(day)
    if last_read is None or last_read.partition != progress.partition:
        return None
    if not policy.counts_alike(day, last_read.counted_files, source.counted_files(day)):
        return None
    if isinstance(last_read, HeldDay) and last_read.wrong_rows:
        return None
    return last_read
