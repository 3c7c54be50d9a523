"""Brings a day from a source to what is served: stage, judge, publish or hold."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.advisory_lock import HeldLock
from app.db.engine import connect, ended_by_server
from app.db.ingest_repository import IngestRepository
from app.db.steps import Step, enter
from app.downloads import DayFigures, PublishedDay
from app.errors import (
    DayOutsideWindowError,
    DayWithoutDownloadsError,
    EmptyDayError,
    HeldDayError,
    QueryLostError,
    RealDataHeldError,
    SampleDataHeldError,
    ShrunkDayError,
)
from app.events import CountedFiles
from app.ingest.plausibility import Thresholds, Verdict, judge
from app.ingest.rows import Rejected, RowCheck
from app.ingest.source import Source
from app.interpreter import short_turns
from app.retries import attempts
from app.settings import IngestSource

log = logging.getLogger(__name__)

FIRST_DAY = date(2016, 1, 1)
"""PyPI's table of downloads begins in this year."""


def latest_complete_day() -> date:
    """The latest UTC day that is over."""
    return datetime.now(UTC).date() - timedelta(days=1)


def check_counted(day: date) -> None:
    """Raise when there can't be downloads of the day."""
    if not FIRST_DAY <= day <= latest_complete_day():
        raise DayWithoutDownloadsError(day, FIRST_DAY, latest_complete_day())


@dataclass(slots=True)
class Progress:
    """How far the ingest of a day has come, for whoever keeps a record of it, and what another
    attempt can go on with.
    """

    query: str | None = None
    """What the source was asked already."""

    billed_query: str | None = None
    """The one whose bill is noted. Reading it again costs nothing."""

    rows: int = 0
    note_query: Callable[[str], Awaitable[None]] | None = None
    note_billed: Callable[[int], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class UnchangedDay:
    """A day that was published before, and of which the source has no more now."""

    published: PublishedDay

    def __str__(self) -> str:
        return f"unchanged {self.published.day}: {DayFigures.__str__(self.published)}"


async def ingest_day(
    engine: AsyncEngine,
    source: Source,
    day: date,
    *,
    retention_days: int,
    thresholds: Thresholds | None = None,
    force: bool = False,
    replace_sample: bool = False,
    only_if_grown: bool = False,
    lock: HeldLock | None = None,
    progress: Progress | None = None,
) -> PublishedDay | UnchangedDay:
    """Publish a day, in place of what was published for it before.

    Everything of the day becomes visible at once or, when anything raises, nothing does.

    By `thresholds` a day that does not look plausible is held, and `HeldDayError` raised, and one
    that has more downloads published stays; with `force`, or without thresholds, every day is taken
    as it is. With `replace_sample` all sample data goes in the moment the day appears. With
    `only_if_grown` a published day stays unless the source has more of it now. What is published is
    published under `lock`, or not at all. Raises an `IngestError`.
    """
    check_counted(day)
    progress = progress or Progress()
    async with connect(engine) as connection:
        repository = IngestRepository(connection)
        origin = await source.origin(day)
        # Asked before anything is spent on the source, and again when nobody else can publish.
        await _check_admissible(repository, origin, day, retention_days, replace_sample)
        await repository.begin_staging()
        read_at = datetime.now(UTC)
        with short_turns():
            rejected, counted_files = await _stage(repository, source, day, lock, progress)
        figures = await repository.figures_of_staged(day, origin, counted_files)
        await connection.commit()
        publish = _Publish(
            connection,
            figures,
            read_at=read_at,
            retention_days=retention_days,
            thresholds=thresholds,
            force=force,
            replace_sample=replace_sample,
            only_if_grown=only_if_grown,
            wrong_rows=rejected.counts.total(),
            fault=rejected.describe_counts(),
            lock=lock,
        )
        return await publish.run()


async def publish_held(
    engine: AsyncEngine,
    day: date,
    *,
    retention_days: int,
    thresholds: Thresholds,
    force: bool = False,
    replace_sample: bool = False,
    lock: HeldLock | None = None,
) -> PublishedDay | None:
    """Publish a held day as it was last read: with `force` as it is, otherwise only when it has
    become plausible by what was published or held around it. None when it has not, or when there is
    no such held day. Raises an `IngestError`.
    """
    async with connect(engine) as connection:
        repository = IngestRepository(connection)
        all_held = await repository.held()
        held = all_held.get(day)
        if held is None:
            return None
        verdict = judge(held, await repository.published(), all_held, thresholds)
        if not force and (verdict.reason or held.wrong_rows):
            return None
        await repository.begin_staging()
        await repository.stage_held(day)
        figures = await repository.figures_of_staged(day, held.source, held.counted_files)
        await connection.commit()
        publish = _Publish(
            connection,
            figures,
            read_at=held.read_at,
            retention_days=retention_days,
            thresholds=thresholds,
            force=True,
            replace_sample=replace_sample,
            only_if_grown=False,
            wrong_rows=held.wrong_rows,
            fault=held.reason if held.wrong_rows else None,
            lock=lock,
        )
        published = await publish.run()
        assert isinstance(published, PublishedDay)
        return published


@dataclass(frozen=True, slots=True)
class _Publish:
    """What becomes of a day that is staged, in one transaction that can be run again."""

    connection: AsyncConnection
    figures: DayFigures
    read_at: datetime
    retention_days: int
    thresholds: Thresholds | None
    force: bool
    replace_sample: bool
    only_if_grown: bool
    wrong_rows: int
    fault: str | None
    """What is known to be wrong with the day, whatever its figures."""

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
        day = self.figures.day
        await repository.lock_publish(day)
        replaces_sample = await _check_admissible(
            repository, self.figures.source, day, self.retention_days, self.replace_sample
        )
        enter(Step.JUDGE, day)
        published = {} if replaces_sample else await repository.published()
        held = {} if replaces_sample else await repository.held()
        before = published.get(day)
        if before and before.counted_files != self.figures.counted_files:
            # By another rule less is not a loss: what was counted by the other is replaced.
            before = None
        grown = self.figures.downloads_with_mirrors - (
            before.downloads_with_mirrors if before else 0
        )
        if before and self.only_if_grown and grown <= 0:
            await repository.note_checked(day)
            await self._commit()
            return UnchangedDay(before)
        verdict = (
            judge(self.figures, published, held, self.thresholds)
            if self.thresholds
            else Verdict(None, is_step=False)
        )
        if self.thresholds and not self.force:
            if before and grown < 0:
                # What was held of it is past: the source says something else now.
                await repository.forget_held(day)
                await self._commit()
                raise ShrunkDayError(
                    day, self.figures.downloads_with_mirrors, before.downloads_with_mirrors
                )
            reason = self.fault or verdict.reason
            if reason:
                await repository.hold(self.figures, reason, self.wrong_rows)
                await self._commit()
                raise HeldDayError(day, reason)
        if replaces_sample:
            await repository.delete_everything()
        result = await repository.publish(
            self.figures,
            read_at=self.read_at,
            was_implausible=bool(self.fault or verdict.departure or grown < 0),
        )
        await self._commit()
        if replaces_sample:
            log.warning("deleted all sample data")
        return result

    async def _commit(self) -> None:
        if self.lock:
            await self.lock.check_on_server(self.connection)
        enter(Step.COMMIT, self.figures.day)
        await self.connection.commit()


async def _check_admissible(
    repository: IngestRepository,
    source: str,
    day: date,
    retention_days: int,
    replace_sample: bool,
) -> bool:
    """Whether there is sample data that has to go for the day to be published.

    Raises when the day can't be published beside what is held.
    """
    published = await repository.published()
    holds_sample = any(one.source == IngestSource.SAMPLE for one in published.values())
    if published and source == IngestSource.SAMPLE and not holds_sample:
        raise RealDataHeldError
    if holds_sample and source != IngestSource.SAMPLE:
        if not replace_sample:
            raise SampleDataHeldError(source)
        return True
    if published:
        latest = max(published)
        first = latest - timedelta(days=retention_days - 1)
        if day < first:
            raise DayOutsideWindowError(day, first, latest)
    return False


async def _stage(
    repository: IngestRepository,
    source: Source,
    day: date,
    lock: HeldLock | None,
    progress: Progress,
) -> tuple[Rejected, CountedFiles]:
    enter(Step.READ, day)
    if progress.query is None:
        progress.query = await source.begin(day)
        if progress.query and progress.note_query:
            await progress.note_query(progress.query)
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
        raise EmptyDayError(day, source.name, rejected.rows)
    return rejected, reading.counted_files
