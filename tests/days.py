"""Days of downloads to ingest, and a source that hands them out."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from typing import Any

import orjson
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.day_rows import replace_rows, stage_all_packages
from app.db.engine import connect
from app.db.package_figures import rewrite_rankings, update_figures
from app.db.partitions import ensure_partition
from app.db.publication import announce
from app.db.repositories.downloads_repository import DownloadsRepository, SeriesRange
from app.db.repositories.ingest_repository import IngestRepository
from app.db.tables import daily_downloads, ingested_days, packages
from app.domain.breakdowns import (
    BREAKDOWN_COLUMNS,
    OPTIONAL_BREAKDOWNS,
    REQUIRED_COLUMNS,
    Breakdown,
    columns_with,
)
from app.domain.clock import Clock
from app.domain.downloads import (
    Batch,
    PackageDownloads,
    Partition,
    PublishedDay,
    Series,
    UnparsedDownloads,
)
from app.domain.events import CountedFiles
from app.domain.months import Period
from app.ingest import pipeline
from app.ingest.policy import PublishPolicy, policy_of
from app.ingest.publish import PublishContext, UnchangedDay
from app.ingest.rollup import roll_up_due
from app.ingest.rows import RejectedRows, RowCheck
from app.ingest.sources.source import DayRows, Source
from app.settings import Settings
from tests.clock import NOW

RETENTION_DAYS = 180

POLICY = policy_of(Settings())
"""The defaults."""

FORCED = replace(POLICY, force=True)
"""Publishes every day as it is."""


def days_ago(days: int) -> date:
    """Return the day that many days before the latest complete one."""
    return NOW.date() - timedelta(days=days + 1)


def downloads(
    package: str,
    python_minor: Mapping[str, int] | int,
    system: Mapping[str, int] | None = None,
    *,
    mirrors: int = 0,
    **optional: Mapping[str, int],
) -> PackageDownloads:
    """A package's day: its downloads by Python version, or only how many they are; and by what else
    is ingested.
    """
    if isinstance(python_minor, int):
        python_minor = {"3.12": python_minor} if python_minor else {}
    total = sum(python_minor.values())
    if system is None:
        system = {"linux": total} if total else {}
    return PackageDownloads(
        package,
        total + mirrors,
        total,
        {"python_minor": python_minor, "system": system, **optional},
    )


def optional_counts(count: int, **chosen: Mapping[str, int]) -> dict[str, Mapping[str, int]]:
    """Return counts by every optional breakdown: the chosen ones, and else of one category."""
    counts = {one.column: {one.examples[0]: count} if count else {} for one in OPTIONAL_BREAKDOWNS}
    return {**counts, **chosen}


def parsed(batch: Batch, columns: Sequence[str]) -> Sequence[PackageDownloads]:
    if not isinstance(batch, UnparsedDownloads):
        return batch
    totals = zip(batch.packages, batch.with_mirrors, batch.without_mirrors, strict=True)
    insides = zip(*batch.breakdowns, strict=True)
    return [
        PackageDownloads(
            *total,
            {
                column: orjson.loads(f"{{{inside}}}")
                for column, inside in zip(columns, texts, strict=True)
            },
        )
        for total, texts in zip(totals, insides, strict=True)
    ]


async def rows_of(reading: DayRows) -> list[PackageDownloads]:
    """All of them, parsed where the source has not done that."""
    return [row async for batch in reading.batches for row in parsed(batch, reading.columns)]


def fault_of(
    row: PackageDownloads | UnparsedDownloads, columns: Sequence[str] = REQUIRED_COLUMNS
) -> str | None:
    """Return the fault of a row, or of the only row of a batch, or None."""
    rejected = RejectedRows()
    staged = RowCheck(columns, rejected).staged([row] if isinstance(row, PackageDownloads) else row)
    assert len(staged) + rejected.rows == 1
    return next(iter(rejected.examples), None)


@dataclass
class GivenSource(Source):
    """Gives the rows it was given. An exception among them is raised in their place."""

    days: Mapping[Any, Sequence[PackageDownloads | Exception]]
    """Rows by day or month."""

    name: str = "given"
    asked_days: list[Period] = field(default_factory=list)
    """What would be billed."""

    partitions: Mapping[date, Partition] = field(default_factory=dict)

    async def partition(self, day: date) -> Partition | None:
        return self.partitions.get(day)

    async def begin(self, period: Period) -> str | None:
        self.asked_days.append(period)
        return f"query {len(self.asked_days)}"

    async def read(self, period: Period, query: str | None) -> DayRows:
        columns = {
            column
            for row in self.days.get(period, ())
            if not isinstance(row, Exception)
            for column in row.breakdowns
        }
        ordered = [column for column in BREAKDOWN_COLUMNS if column in columns]
        return DayRows(self._batches(period), columns=ordered or REQUIRED_COLUMNS)

    async def _batches(self, period: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
        rows: list[PackageDownloads] = []
        for row in self.days.get(period, ()):
            if isinstance(row, Exception):
                if rows:
                    yield rows
                raise row
            rows.append(row)
        if rows:
            yield rows


async def overall(
    engine: AsyncEngine, package: str, retention_days: int = RETENTION_DAYS
) -> Series | None:
    """Of all days served."""
    repository = DownloadsRepository(engine, retention_days)
    publication = await repository.publication()
    if publication is None:
        return None
    window = publication.window
    found = (await repository.overall([package], SeriesRange(window, window.first))).get(package)
    return found.series if found else None


async def by_category(engine: AsyncEngine, package: str, breakdown: Breakdown) -> Series | None:
    """Of all days served."""
    repository = DownloadsRepository(engine, RETENTION_DAYS)
    publication = await repository.publication()
    if publication is None:
        return None
    window = publication.window
    found = await repository.breakdown(package, SeriesRange(window, window.first), breakdown)
    return found.series if found else None


async def ingest(
    engine: AsyncEngine,
    source: Source,
    day: date,
    policy: PublishPolicy = FORCED,
    clock: Clock = lambda: NOW,
) -> PublishedDay | UnchangedDay:
    """Ingest a day, the way every day is."""
    return await pipeline.read_and_publish(PublishContext(engine, policy, clock), source, day)


async def publish(
    engine: AsyncEngine, day: date, *rows: PackageDownloads, replace_sample: bool = False
) -> PublishedDay:
    """Publish a day of these rows, however implausible they are."""
    policy = replace(FORCED, replace_sample=replace_sample)
    published = await ingest(engine, GivenSource({day: rows}), day, policy)
    assert isinstance(published, PublishedDay)
    return published


async def roll_up(engine: AsyncEngine, retention_days: int = RETENTION_DAYS) -> list[date]:
    """Roll up the months whose first day has left the window. Return their first days."""
    policy = replace(POLICY, retention_days=retention_days)
    context = PublishContext(engine, policy, lambda: NOW)
    return [one.month async for one in roll_up_due(context, Settings())]


async def store_days(
    engine: AsyncEngine, days: Mapping[date, Sequence[PackageDownloads]], *, name: str = "given"
) -> None:
    """Publish many days at once, without judging them. That takes a tenth of the time of `publish`
    for each, because the figures of packages are updated only once.
    """
    async with connect(engine) as connection:
        repository = IngestRepository(connection)
        for day, rows in days.items():
            columns = columns_with(
                one for one in OPTIONAL_BREAKDOWNS if one.column in rows[0].breakdowns
            )
            await repository.begin_staging()
            await repository.stage(RowCheck(columns, RejectedRows()).staged(rows), columns)
            figures = await repository.figures_of_staged(day, name, CountedFiles.ALL, None)
            await stage_all_packages(connection)
            await ensure_partition(connection, day)
            await replace_rows(connection, day)
            record = PublishedDay(**asdict(figures), published_at=NOW, checked_at=NOW)
            await connection.execute(delete(ingested_days).where(ingested_days.c.day == day))
            await connection.execute(insert(ingested_days).values(asdict(record)))
        latest = select(func.max(daily_downloads.c.date))
        seen = latest.where(daily_downloads.c.package_id == packages.c.id)
        await connection.execute(update(packages).values(last_seen=seen.scalar_subquery()))
        latest_day = await repository.latest_day()
        assert latest_day
        await update_figures(connection, latest_day, is_next=False)
        await rewrite_rankings(connection, latest_day)
        await announce(connection)
        await connection.commit()
