"""Writes published days to a folder or a bucket of dumps."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.dump_repository import DumpRepository
from app.db.snapshot import snapshot
from app.downloads import PublishedDay
from app.dumps.formats import writer
from app.dumps.listing import (
    TOTAL_COLUMNS,
    Dump,
    DumpFormat,
    Dumps,
    breakdowns_of,
    name_of,
)
from app.dumps.store import DumpStore
from app.errors import DumpsError


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of one day."""

    dump: Dump
    is_new: bool

    def __str__(self) -> str:
        told = "wrote" if self.is_new else "unchanged"
        return (
            f"{told} {self.dump.name}: {self.dump.packages:,} packages, {self.dump.bytes:,} bytes"
        )


async def days_to_export(engine: AsyncEngine, retention_days: int) -> list[PublishedDay]:
    """The days served, latest first. Raises `DumpsError` when there is none: then no dump is taken
    to be that of a day that is gone.
    """
    async with snapshot(engine) as connection:
        days = await DumpRepository(connection, retention_days).published_days()
    if not days:
        raise DumpsError("nothing is published, so there is nothing to export")
    return days


def forget_dropped(store: DumpStore, published: Sequence[PublishedDay]) -> None:
    """Remove the dumps of days that are not published any more, and what a killed export left."""
    dumps = store.dumps()
    served = {day.day for day in published}
    kept = Dumps.listed(dump for dump in dumps.data if dump.day in served)
    if kept == dumps:
        store.sweep(dumps)
    else:
        store.write_list(kept)


async def export(
    engine: AsyncEngine,
    store: DumpStore,
    days: Sequence[PublishedDay],
    dump_format: DumpFormat,
    *,
    retention_days: int,
) -> AsyncIterator[Exported]:
    """Write the days that the store does not have as they are published, each with the list anew,
    so that what is stopped has lost one day's work at most. The caller has locked the store.

    A day that retention has dropped since it was listed is left out.
    """
    for day in days:
        dumps = store.dumps()
        dump = dumps.of(day.day)
        if dump and _is_current(dump, day, dump_format) and store.holds(dump):
            yield Exported(dump, is_new=False)
            continue
        dump = await _write(engine, store, day.day, dump_format, retention_days)
        if dump:
            store.write_list(dumps.with_dump(dump))
            yield Exported(dump, is_new=True)


def _is_current(dump: Dump, day: PublishedDay, dump_format: DumpFormat) -> bool:
    # Its digest is another one when it has other breakdowns.
    return (dump.digest, dump.source, dump.counted_files, dump.format) == (
        day.digest,
        day.source,
        day.counted_files,
        dump_format,
    )


async def _write(
    engine: AsyncEngine,
    store: DumpStore,
    day: date,
    dump_format: DumpFormat,
    retention_days: int,
) -> Dump | None:
    async with snapshot(engine) as connection:
        repository = DumpRepository(connection, retention_days)
        # As it is in this moment, which its rows are of.
        published = {one.day: one for one in await repository.published_days()}.get(day)
        if published is None:
            return None
        name = name_of(published, dump_format)
        breakdowns = breakdowns_of(published)
        with (
            store.new_file(name) as (file, written),
            writer(file, dump_format, breakdowns) as write,
        ):
            async for rows in repository.rows(day, breakdowns):
                write(rows)
    return Dump(
        day=day,
        name=name,
        url=name,
        format=dump_format,
        bytes=written.bytes,
        sha256=written.sha256,
        source=published.source,
        packages=published.packages,
        downloads=published.downloads,
        downloads_with_mirrors=published.downloads_with_mirrors,
        digest=published.digest,
        columns=(*TOTAL_COLUMNS, *breakdowns),
        counted_files=published.counted_files,
    )
