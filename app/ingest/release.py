"""Publishes held days, as they were last read."""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date

from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.db.repositories.runs_repository import RunsRepository
from app.domain.downloads import PublishedDay, RunOutcome
from app.errors import IngestError
from app.ingest.judge import KnownDays
from app.ingest.policy import PublishPolicy
from app.ingest.publish import Publisher, StagedDay, publish_staged

log = logging.getLogger(__name__)


async def release(publisher: Publisher, day: date) -> PublishedDay | None:
    """Publish a held day if it has become plausible or is forced, and record a run.

    Return None if the day is not held, or stays held. Raises an `IngestError`.
    """
    published = await _publish_held(publisher, day)
    if published:
        runs = RunsRepository(publisher.engine)
        run = await runs.begin(day, published.source, publisher.clock())
        await runs.end(run, RunOutcome.PUBLISHED, publisher.clock(), rows=published.packages)
    return published


async def release_plausible(publisher: Publisher) -> AsyncIterator[PublishedDay]:
    """Publish the held days that have become plausible, latest first.

    Each published day can make another one plausible.
    """
    refused: set[date] = set()
    while True:
        async with connect(publisher.engine) as connection:
            plausible = await _plausible(IngestRepository(connection), publisher.policy) - refused
        if not plausible:
            return
        day = max(plausible)
        try:
            released = await release(publisher, day)
        except IngestError as error:
            log.warning("%s stays held: %s", day, error)
            released = None
        if released:
            yield released
        else:
            refused.add(day)


async def _publish_held(publisher: Publisher, day: date) -> PublishedDay | None:
    async with connect(publisher.engine) as connection:
        repository = IngestRepository(connection)
        held = (await repository.held()).get(day)
        if held is None:
            return None
        is_forced = publisher.policy.force
        if not is_forced and day not in await _plausible(repository, publisher.policy):
            return None
        await repository.begin_staging()
        await repository.stage_held(day)
        figures = await repository.figures_of_staged(
            day, held.source, held.counted_files, held.partition
        )
        await connection.commit()
        policy = replace(publisher.policy, force=True, only_if_changed=False)
        published = await publish_staged(
            replace(publisher, policy=policy), connection, StagedDay(figures, held.read_at)
        )
        assert isinstance(published, PublishedDay)
        return published


async def _plausible(repository: IngestRepository, policy: PublishPolicy) -> set[date]:
    """Return the held days that the days around them make plausible by now."""
    held = await repository.held()
    known = KnownDays(await repository.published(), held, policy)
    return {day for day, one in held.items() if not (one.wrong_rows or known.judge(one).reason)}
