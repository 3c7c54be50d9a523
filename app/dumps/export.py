"""Writes published days to a folder or a bucket of dumps."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.dump_repository import DumpRepository
from app.db.snapshot import snapshot
from app.domain.downloads import PublishedDay
from app.dumps.formats import writer
from app.dumps.listing import (
    SAMPLE,
    TOTAL_COLUMNS,
    Dump,
    DumpFormat,
    Dumps,
    breakdowns_of,
    name_of,
)
from app.dumps.stores.store import DumpStore
from app.errors import DumpsError


@dataclass(frozen=True, slots=True)
class Exported:
    """The outcome of one day."""

    dump: Dump
    is_new: bool
    removed: Sequence[str] = ()
    """Names of the files that the new one replaces."""

    def __str__(self) -> str:
        told = "wrote" if self.is_new else "unchanged"
        return (
            f"{told} {self.dump.name}: {self.dump.packages:,} packages, {self.dump.bytes:,} bytes"
        )


async def days_to_export(engine: AsyncEngine, retention_days: int) -> list[PublishedDay]:
    """The days served, latest first. Raises `DumpsError` when there is none."""
    async with snapshot(engine) as connection:
        days = await DumpRepository(connection, retention_days).published_days()
    if not days:
        raise DumpsError("nothing is published, so there is nothing to export")
    return days


def prepare(
    store: DumpStore,
    published: Sequence[PublishedDay],
    *,
    retention_days: int,
    replace_sample: bool = False,
) -> list[str]:
    """Remove files for days before the window, and files that a killed export left behind. Return
    the names of the removed files.

    Files of other days stay, also if this database does not have the day: it may be a new one, or
    have a gap. With `replace_sample`, real data replaces the sample in the store. Raises
    `DumpsError`, and removes nothing, if real and sample data would be mixed.
    """
    dumps = store.dumps()
    files = store.files()
    is_sample = _is_sample(published[0])
    others = {
        *(dump.name for dump in dumps.data if dump.is_sample != is_sample),
        *(file.name for file in files if file.day and file.is_sample != is_sample),
    }
    if others and is_sample:
        raise DumpsError(
            f"{store} holds dumps of real data, and the database holds sample data: "
            "they are never mixed, so export the sample to another place"
        )
    if others and not replace_sample:
        raise DumpsError(
            f"{store} holds dumps of sample data, and the database holds real data: "
            "--replace-sample removes those of the sample"
        )
    first_served = published[0].day - timedelta(days=retention_days - 1)
    kept = Dumps.listed(
        dump for dump in dumps.data if dump.day >= first_served and dump.name not in others
    )
    if kept != dumps:
        store.write_list(kept)
    store.remove(others)
    return sorted(others) + _remove_obsolete(store, kept, first_served)


def _remove_obsolete(store: DumpStore, listed: Dumps, first_served: date = date.min) -> list[str]:
    """Remove files that are not listed because they were not finished, or replaced by a listed file
    of the same day, or are for a day before the window. Return their names.
    """
    names = {dump.name for dump in listed.data}
    days = {dump.day for dump in listed.data}
    obsolete = [
        file.name
        for file in store.files()
        if file.name not in names
        and not file.is_recent
        and (file.day is None or file.day in days or file.day < first_served)
    ]
    store.remove(obsolete)
    return sorted(obsolete)


async def export(
    engine: AsyncEngine,
    store: DumpStore,
    days: Sequence[PublishedDay],
    dump_format: DumpFormat,
    *,
    retention_days: int,
) -> AsyncIterator[Exported]:
    """Write the days whose file in the store is missing or not as published. The caller has locked
    and prepared the store.

    The list is written anew after each day, so an export that is stopped loses one day's work at
    most. A day that retention has dropped since it was listed is left out.
    """
    for day in days:
        dumps = store.dumps()
        dump = dumps.of(day.day)
        if dump and _is_current(dump, day, dump_format) and store.holds(dump):
            yield Exported(dump, is_new=False)
            continue
        dump = await _write(engine, store, day, dump_format, retention_days)
        if dump:
            dumps = dumps.with_dump(dump)
            store.write_list(dumps)
            yield Exported(dump, is_new=True, removed=_remove_obsolete(store, dumps))


def _is_sample(day: PublishedDay) -> bool:
    return day.source == SAMPLE


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
    day: PublishedDay,
    dump_format: DumpFormat,
    retention_days: int,
) -> Dump | None:
    async with snapshot(engine) as connection:
        repository = DumpRepository(connection, retention_days)
        # The rows are of this moment, so the figures have to be as well.
        days = {one.day: one for one in await repository.published_days()}
        published = days.get(day.day)
        # Real data may have replaced the sample since the store was prepared.
        if published is None or _is_sample(published) != _is_sample(day):
            return None
        name = name_of(published, dump_format)
        breakdowns = breakdowns_of(published)
        with (
            store.new_file(name) as (file, written),
            writer(file, dump_format, breakdowns) as write,
        ):
            async for rows in repository.rows(day.day, breakdowns):
                write(rows)
    return Dump(
        day=day.day,
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
