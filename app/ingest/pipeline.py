"""Brings a day from a source to what is served: stage, judge, publish or hold."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.advisory_lock import HeldLock
from app.db.driver_errors import ended_by_server
from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.db.steps import Step, enter
from app.domain.clock import Clock
from app.domain.downloads import DayFigures, HeldDay, Partition, PublishedDay
from app.domain.events import CountedFiles, KnownEvents
from app.errors import (
    HeldDayError,
    IngestError,
    MixedDataError,
    QueryLostError,
    ShrunkDayError,
)
from app.ingest.plausibility import KnownDays
from app.ingest.policy import PublishPolicy
from app.ingest.rows import Rejected, RowCheck
from app.ingest.sources.source import Source
from app.interpreter import short_turns
from app.retries import attempts
from app.settings import IngestSource

log = logging.getLogger(__name__)

FIRST_DAY = date(2016, 1, 1)
"""PyPI's table of downloads begins in this year."""


def latest_complete_day(now: datetime) -> date:
    """Return the latest UTC day that is over."""
    return now.date() - timedelta(days=1)


def check_counted(day: date, now: datetime) -> None:
    """Raise if there can't be downloads of the day."""
    latest = latest_complete_day(now)
    if not FIRST_DAY <= day <= latest:
        raise IngestError(
            f"{day} is no day with downloads: the first of them is {FIRST_DAY}, "
            f"the latest complete UTC day is {latest}"
        )


def check_in_window(day: date, first: date, latest: date) -> None:
    """Raise if the day is before the days that are served."""
    if day < first:
        raise IngestError(
            f"{day} is outside the window that is served, {first} to {latest}: "
            "RETENTION_DAYS sets its length"
        )


@dataclass(slots=True)
class Progress:
    """How far the ingest of a day has come, so that another attempt can continue."""

    query: str | None = None
    """The source's query for the day, once it was asked."""

    partition: Partition | None = None
    """The source's partition before that query."""

    billed_query: str | None = None
    """The query whose bill is recorded. Reading its result again costs nothing."""

    has_queried: bool = False
    """True once the source was asked for the day's rows, which it bills."""

    rows: int = 0
    note_query: Callable[[str | None, Partition | None], Awaitable[None]] | None = None
    note_billed: Callable[[int], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class UnchangedDay:
    """A published day for which the source has nothing new."""

    published: PublishedDay

    def __str__(self) -> str:
        return f"unchanged {self.published.day}: {DayFigures.__str__(self.published)}"


@dataclass(frozen=True, slots=True)
class Ingest:
    """What the ingests of several days have in common."""

    engine: AsyncEngine
    source: Source
    policy: PublishPolicy
    clock: Clock
    lock: HeldLock | None = None
    """Nothing is published once it is lost."""


async def ingest_day(
    ingest: Ingest, day: date, progress: Progress | None = None
) -> PublishedDay | UnchangedDay:
    """Publish a day, in place of what was published for it before.

    Everything of the day becomes visible at once or, if anything raises, nothing does. A day that
    does not look plausible is held, and `HeldDayError` raised; a published day with more downloads
    stays, and `ShrunkDayError` is raised. Raises an `IngestError`.
    """
    check_counted(day, ingest.clock())
    progress = progress or Progress()
    source, policy = ingest.source, ingest.policy
    async with connect(ingest.engine) as connection:
        repository = IngestRepository(connection)
        origin, counted_files = await source.origin(day), source.counted_files(day)
        # Checked before anything is spent on the source, and again under the publish lock.
        await _check_admissible(repository, origin, day, policy)
        read_at = ingest.clock()
        # No transaction stays open while the source is asked.
        await connection.commit()
        if progress.query is None:
            progress.partition = await source.partition(day)
            if policy.only_if_changed and progress.partition:
                last_read = await _note_unchanged(
                    repository, day, counted_files, policy.events, progress, read_at
                )
                if ingest.lock:
                    await ingest.lock.check_on_server(connection)
                await connection.commit()
                if isinstance(last_read, HeldDay):
                    raise HeldDayError(day, last_read.reason)
                if last_read:
                    return UnchangedDay(last_read)
        await repository.begin_staging()
        with short_turns():
            staged = await _stage(repository, ingest, day, progress)
        if staged.queried_at:
            # The result of an earlier query is as old as that query.
            read_at = min(read_at, staged.queried_at)
        figures = await repository.figures_of_staged(day, origin, counted_files, progress.partition)
        await connection.commit()
        publish = _Publish(
            connection,
            figures,
            policy,
            clock=ingest.clock,
            read_at=read_at,
            wrong_rows=staged.rejected.counts.total(),
            fault=staged.rejected.describe_counts(),
            lock=ingest.lock,
        )
        return await publish.run()


async def is_unchanged(ingest: Ingest, day: date) -> bool:
    """Return True if a check of the day's partition finds that there is nothing to read.

    Raises an `IngestError`.
    """
    async with connect(ingest.engine) as connection:
        repository = IngestRepository(connection)
        last_read = await _last_read(repository, day)
        await connection.commit()
        if not (ingest.policy.only_if_changed and last_read and last_read.partition):
            return False
        await ingest.source.origin(day)
        partition = await ingest.source.partition(day)
        return _is_as_read(
            last_read, partition, ingest.source.counted_files(day), ingest.policy.events
        )


async def publish_held(
    engine: AsyncEngine,
    day: date,
    policy: PublishPolicy,
    clock: Clock,
    lock: HeldLock | None = None,
) -> PublishedDay | None:
    """Publish a held day as it was last read: if forced as it is, otherwise only if it has become
    plausible by what was published or held around it. None if it has not, or if there is no such
    held day. Raises an `IngestError`.
    """
    async with connect(engine) as connection:
        repository = IngestRepository(connection)
        all_held = await repository.held()
        held = all_held.get(day)
        if held is None:
            return None
        known = KnownDays(await repository.published(), all_held, policy.thresholds, policy.events)
        if not policy.force and (held.wrong_rows or known.judge(held).reason):
            return None
        await repository.begin_staging()
        await repository.stage_held(day)
        figures = await repository.figures_of_staged(
            day, held.source, held.counted_files, held.partition
        )
        await connection.commit()
        publish = _Publish(
            connection,
            figures,
            replace(policy, force=True, only_if_changed=False),
            clock=clock,
            read_at=held.read_at,
            wrong_rows=held.wrong_rows,
            fault=held.reason if held.wrong_rows else None,
            lock=lock,
        )
        published = await publish.run()
        assert isinstance(published, PublishedDay)
        return published


async def _note_unchanged(
    repository: IngestRepository,
    day: date,
    counted_files: CountedFiles,
    events: KnownEvents,
    progress: Progress,
    now: datetime,
) -> HeldDay | PublishedDay | None:
    """Record a check if the day's partition is as it was when the day was last read.

    The check counts as a reading with the same result, which is returned. None if the partition has
    changed, if the day was never read, or not by an equal definition, or if rows of it were wrong:
    those have to be read again.
    """
    last_read = await _last_read(repository, day)
    if not (last_read and _is_as_read(last_read, progress.partition, counted_files, events)):
        return None
    if progress.note_query:
        await progress.note_query(None, progress.partition)
    await repository.note_unchanged(day, now)
    return last_read


async def _last_read(repository: IngestRepository, day: date) -> HeldDay | PublishedDay | None:
    return (await repository.held()).get(day) or (await repository.published()).get(day)


def _is_as_read(
    last_read: HeldDay | PublishedDay,
    partition: Partition | None,
    counted_files: CountedFiles,
    events: KnownEvents,
) -> bool:
    return (
        last_read.partition == partition
        and _is_same_definition(events, last_read.day, last_read.counted_files, counted_files)
        and not (isinstance(last_read, HeldDay) and last_read.wrong_rows)
    )


def _is_same_definition(
    events: KnownEvents, day: date, one: CountedFiles, other: CountedFiles
) -> bool:
    return events.definition(day, one) == events.definition(day, other)


@dataclass(frozen=True, slots=True)
class _Publish:
    """Publishes or holds a staged day, in one transaction that can be run again."""

    connection: AsyncConnection
    figures: DayFigures
    policy: PublishPolicy
    clock: Clock
    read_at: datetime
    wrong_rows: int
    fault: str | None
    """Why the day must be held, whatever its figures."""

    lock: HeldLock | None

    async def run(self) -> PublishedDay | UnchangedDay:
        # What is staged outlives a transaction that had to be given up.
        async for attempt in attempts(str(self.figures.day), ended_by_server):
            with attempt:
                try:
                    return await self._run()
                except BaseException:
                    await self.connection.rollback()
                    raise
        raise AssertionError

    async def _run(self) -> PublishedDay | UnchangedDay:
        repository = IngestRepository(self.connection)
        policy, figures, day = self.policy, self.figures, self.figures.day
        await repository.lock_publish(day)
        replaces_sample = await _check_admissible(repository, figures.source, day, policy)
        enter(Step.JUDGE, day)
        published = {} if replaces_sample else await repository.published()
        held = {} if replaces_sample else await repository.held()
        known = KnownDays(published, held, policy.thresholds, policy.events)
        verdict = known.judge(figures)
        before = published.get(day)
        is_better = before is None or (
            figures.downloads_with_mirrors > before.downloads_with_mirrors
            # Counts by different definitions can't be compared.
            or not _is_same_definition(
                policy.events, day, figures.counted_files, before.counted_files
            )
            # More than there can be was published, and the source has corrected it.
            or bool(before.suspect_reason and not (verdict.departure or self.fault))
        )
        if before and policy.only_if_changed and not is_better:
            await repository.note_checked(figures, self.read_at)
            await self._commit()
            return UnchangedDay(before)
        if not policy.force:
            if (
                before
                and not is_better
                and figures.downloads_with_mirrors < before.downloads_with_mirrors
            ):
                # The held rows are outdated: the source has something else now.
                await repository.forget_held(day)
                await self._commit()
                raise ShrunkDayError(
                    day, figures.downloads_with_mirrors, before.downloads_with_mirrors
                )
            reason = self.fault or verdict.reason
            if reason:
                waiting = await repository.hold(figures, reason, self.read_at, self.wrong_rows)
                await self._note_suspects(repository, published, {**held, day: waiting})
                await self._commit()
                raise HeldDayError(day, reason)
        if replaces_sample:
            await repository.delete_everything()
        held.pop(day, None)
        suspects = await self._note_suspects(repository, {**published, day: figures}, held)
        result = await repository.publish(
            figures,
            read_at=self.read_at,
            published_at=self.clock(),
            suspect_reason=suspects.get(day),
        )
        await self._commit()
        if replaces_sample:
            log.warning("deleted all sample data")
        return result

    async def _note_suspects(
        self,
        repository: IngestRepository,
        published: Mapping[date, DayFigures],
        held: Mapping[date, HeldDay],
    ) -> Mapping[date, str]:
        """Record which published days are suspect with these days known, and why."""
        first = max(published, default=self.figures.day) - timedelta(
            days=self.policy.retention_days - 1
        )
        known = KnownDays(published, held, self.policy.thresholds, self.policy.events)
        suspects = known.suspects(first)
        await repository.note_suspects(suspects)
        return suspects

    async def _commit(self) -> None:
        if self.lock:
            await self.lock.check_on_server(self.connection)
        enter(Step.COMMIT, self.figures.day)
        await self.connection.commit()


async def _check_admissible(
    repository: IngestRepository, source: str, day: date, policy: PublishPolicy
) -> bool:
    """Return True if sample data must be deleted to publish the day.

    Raises if the day can't be published beside the days that are there.
    """
    published = await repository.published()
    holds_sample = any(one.source == IngestSource.SAMPLE for one in published.values())
    if published and source == IngestSource.SAMPLE and not holds_sample:
        raise MixedDataError(
            "the database holds real data, which is never mixed with sample data: "
            "use another database for the sample"
        )
    if holds_sample and source != IngestSource.SAMPLE:
        if not policy.replace_sample:
            raise MixedDataError(
                f"the database holds sample data, which is never mixed with data from {source}: "
                "run `python -m app ingest --replace-sample` once to delete the sample "
                "as the first real day is published"
            )
        return True
    if published:
        latest = max(published)
        check_in_window(day, latest - timedelta(days=policy.retention_days - 1), latest)
    return False


@dataclass(frozen=True, slots=True)
class _Staged:
    rejected: Rejected
    queried_at: datetime | None


async def _stage(
    repository: IngestRepository, ingest: Ingest, day: date, progress: Progress
) -> _Staged:
    source, lock = ingest.source, ingest.lock
    enter(Step.READ, day)
    if progress.query is None:
        progress.has_queried = True
        progress.query = await source.begin(day)
        if progress.note_query:
            await progress.note_query(progress.query, progress.partition)
    try:
        reading = await source.read(day, progress.query)
    except QueryLostError:
        progress.query = None
        raise
    if progress.note_billed and (progress.query is None or progress.query != progress.billed_query):
        await progress.note_billed(reading.bytes_billed)
        progress.billed_query = progress.query
    staged = 0
    rejected = Rejected()
    check: RowCheck | None = None
    # Whatever ends it, the source then lets go of what it reads from.
    async with aclosing(reading.batches) as batches:
        async for batch in batches:
            check = check or RowCheck(reading.columns, rejected)
            # In a thread, so that the service's process answers requests meanwhile.
            rows = await asyncio.to_thread(check.staged, batch)
            enter(Step.STAGE, day)
            if lock:
                lock.check()
            progress.rows += len(batch)
            await repository.stage(rows, reading.columns)
            staged += len(rows)
    for fault, example in rejected.examples.items():
        count = rejected.counts[fault] or rejected.names
        log.warning("%s: rejected %d rows: %s, such as %.300r", day, count, fault, example)
    if not staged:
        found = f"no valid rows ({rejected.rows} rejected)" if rejected.rows else "no rows"
        raise IngestError(f"{source.name} has {found} for {day}: nothing was published")
    return _Staged(rejected, reading.queried_at)
