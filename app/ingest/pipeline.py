"""Brings days from a source to what is served: stage, check, publish, retention."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.breakdowns import BREAKDOWN_COLUMNS
from app.db.engine import connect
from app.db.ingest_repository import IngestRepository
from app.db.partitions import drop_partitions_before, first_held_day
from app.downloads import PackageDownloads, PublishedDay
from app.errors import (
    DayOutsideWindowError,
    DayWithoutDownloadsError,
    EmptyDayError,
    IngestError,
    RealDataHeldError,
    SampleDataHeldError,
    TableInUseError,
)
from app.ingest.sample import SampleSource
from app.ingest.source import Source
from app.package_name import is_valid
from app.settings import IngestSource

log = logging.getLogger(__name__)

FIRST_DAY = date(2016, 1, 1)
"""PyPI's table of downloads begins in this year."""

STAGED_ROWS = 2_000
"""Rows that are validated and copied at a time. In between, the service's process answers requests:
this many keep it from that for some 10 ms."""

EXPIRE_TRIES = 10
EXPIRE_PAUSE_SECONDS = 1.0

MAX_DAILY_DOWNLOADS = 10**11
"""Of one package. All of PyPI together has some 10**9 to 10**10 a day."""


def latest_complete_day() -> date:
    """The latest UTC day that is over."""
    return datetime.now(UTC).date() - timedelta(days=1)


def check_counted(day: date) -> None:
    """Raise when there can't be downloads of the day."""
    if not FIRST_DAY <= day <= latest_complete_day():
        raise DayWithoutDownloadsError(day, FIRST_DAY, latest_complete_day())


async def ingest_day(
    engine: AsyncEngine,
    source: Source,
    day: date,
    *,
    retention_days: int,
    replace_sample: bool = False,
) -> PublishedDay:
    """Publish a day, in place of what was published for it before.

    Everything of the day becomes visible at once or, when anything raises, nothing does. With
    `replace_sample` all sample data goes in the moment the day appears. Raises an `IngestError`.
    """
    check_counted(day)
    async with connect(engine) as connection:
        repository = IngestRepository(connection)
        # Asked before anything is spent on the source, and again when nobody else can publish.
        await _check_admissible(repository, source, day, retention_days, replace_sample)
        await repository.begin_staging()
        await _stage(repository, source, day)

        await repository.lock_publish()
        replaced = await _check_admissible(repository, source, day, retention_days, replace_sample)
        if replaced:
            await repository.delete_everything()
        published = await repository.publish(day, source.name)
        await connection.commit()
    if replaced:
        log.warning("deleted all sample data")
    return published


async def _check_admissible(
    repository: IngestRepository,
    source: Source,
    day: date,
    retention_days: int,
    replace_sample: bool,
) -> bool:
    """Whether there is sample data that has to go for the day to be published.

    Raises when the day can't be published beside what is held.
    """
    held = await repository.published_sources()
    holds_sample = IngestSource.SAMPLE in held.values()
    if held and source.name == IngestSource.SAMPLE and not holds_sample:
        raise RealDataHeldError
    if holds_sample and source.name != IngestSource.SAMPLE:
        if not replace_sample:
            raise SampleDataHeldError(source.name)
        return True
    if held:
        latest = max(held)
        first = latest - timedelta(days=retention_days - 1)
        if day < first:
            raise DayOutsideWindowError(day, first, latest)
    return False


async def _stage(repository: IngestRepository, source: Source, day: date) -> None:
    staged = 0
    rejected: Counter[str] = Counter()
    examples: dict[str, str] = {}
    async for batch in source.read(day):
        for start in range(0, len(batch), STAGED_ROWS):
            accepted = []
            for row in batch[start : start + STAGED_ROWS]:
                fault = fault_of(row)
                if fault is None:
                    accepted.append(row)
                else:
                    rejected[fault] += 1
                    examples.setdefault(fault, repr(row)[:300])
            await repository.stage(accepted)
            staged += len(accepted)
    for fault, count in rejected.items():
        log.warning("%s: rejected %d rows: %s, such as %s", day, count, fault, examples[fault])
    if not staged:
        raise EmptyDayError(day, source.name, rejected.total())


def fault_of(row: PackageDownloads) -> str | None:
    """What is wrong with a row that must not be counted; None when nothing is."""
    if not is_valid(row.package):
        return "not the name of a package"
    counts_agree = 0 <= row.without_mirrors <= row.with_mirrors
    if not (counts_agree and 1 <= row.with_mirrors <= MAX_DAILY_DOWNLOADS):
        return "an impossible number of downloads"
    for column in BREAKDOWN_COLUMNS:
        counts = row.breakdowns[column].values()
        if sum(counts) != row.without_mirrors or min(counts, default=1) < 1:
            return f"{column} does not add up to the downloads"
    return None


@dataclass(frozen=True, slots=True)
class Expired:
    partitions: Sequence[str]
    packages: int

    def __str__(self) -> str:
        dropped = ", ".join(self.partitions) or "no month"
        return f"retention: dropped {dropped}, forgot {self.packages:,} packages"


async def expire(engine: AsyncEngine, *, retention_days: int) -> Expired:
    """Drop the months that lie wholly outside the window, and the packages without a row left, all
    or nothing. Raises `TableInUseError` when readers were in the way each time it tried.

    Readers leave out what is outside the window by themselves, so this changes no answer.
    """
    for _ in range(EXPIRE_TRIES - 1):
        with suppress(TableInUseError):
            return await _expire(engine, retention_days)
        await asyncio.sleep(EXPIRE_PAUSE_SECONDS)
    return await _expire(engine, retention_days)


async def _expire(engine: AsyncEngine, retention_days: int) -> Expired:
    async with connect(engine) as connection:
        repository = IngestRepository(connection)
        await repository.lock_publish()
        latest = await repository.latest_day()
        if latest is None:
            return Expired([], 0)
        first_served = latest - timedelta(days=retention_days - 1)
        dropped = await drop_partitions_before(connection, first_served)
        first_held = await first_held_day(connection)
        gone = await repository.forget_before(first_held) if first_held else 0
        await connection.commit()
        return Expired(dropped, gone)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one day of a backfill: it was published, or it failed for a reason."""

    day: date
    result: PublishedDay | IngestError

    def __str__(self) -> str:
        if isinstance(self.result, PublishedDay):
            return str(self.result)
        return f"{self.day} failed: {self.result}"


async def days_to_backfill(
    engine: AsyncEngine,
    start: date | None,
    end: date,
    *,
    retention_days: int,
    force: bool,
    replace_sample: bool,
) -> list[date]:
    """The days from `start` to `end`, both included, that are not published, latest first.

    `start` left out is the first day that is served once `end` is published. With `force` all of
    them; with `replace_sample` a day of sample data counts as not published. Raises when a day is
    not complete or would lie outside the window.
    """
    for day in filter(None, (start, end)):
        check_counted(day)
    async with connect(engine) as connection:
        sources = await IngestRepository(connection).published_sources()
    held = {
        day
        for day, source in sources.items()
        if not (replace_sample and source == IngestSource.SAMPLE)
    }
    latest = max(held | {end})
    first = latest - timedelta(days=retention_days - 1)
    start = start or first
    if start < first:
        raise DayOutsideWindowError(start, first, latest)
    days = [end - timedelta(days=passed) for passed in range((end - start).days + 1)]
    return [day for day in days if force or day not in held]


async def backfill(
    engine: AsyncEngine,
    source: Source,
    days: Sequence[date],
    *,
    retention_days: int,
    replace_sample: bool = False,
) -> AsyncIterator[Outcome]:
    """Publish the days in the order given. A day that fails does not keep the others from it.

    Raises what would make every day fail: mixed data, a database that went away.
    """
    for day in days:
        try:
            published = await ingest_day(
                engine, source, day, retention_days=retention_days, replace_sample=replace_sample
            )
        except (SampleDataHeldError, RealDataHeldError):
            raise
        except IngestError as error:
            yield Outcome(day, error)
        else:
            yield Outcome(day, published)


async def days_to_seed(engine: AsyncEngine, *, retention_days: int) -> list[date]:
    """The days that a full window of sample data lacks, latest first.

    It ends with the latest day held, so that what is there stays as it is; in an empty database
    with the latest complete one.
    """
    async with connect(engine) as connection:
        end = await IngestRepository(connection).latest_day() or latest_complete_day()
    return await days_to_backfill(
        engine,
        None,
        end,
        retention_days=retention_days,
        force=False,
        replace_sample=False,
    )


async def seed(
    engine: AsyncEngine, days: Sequence[date], *, retention_days: int
) -> AsyncIterator[PublishedDay]:
    """Publish sample data for the days. Raises `RealDataHeldError`."""
    source = SampleSource()
    for day in days:
        yield await ingest_day(engine, source, day, retention_days=retention_days)
