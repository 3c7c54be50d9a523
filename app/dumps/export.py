"""Writes published days and stored months to a folder or a bucket of dumps."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import snapshot
from app.db.repositories.dump_repository import DumpRepository
from app.domain.downloads import PublishedDay, served_days
from app.domain.months import Period, StoredMonth, first_day
from app.dumps.formats import writer
from app.dumps.listing import (
    SAMPLE,
    Dump,
    DumpFormat,
    Dumps,
    Figures,
    MonthDump,
    breakdowns_of,
    dump_of,
    name_of,
)
from app.dumps.stores.store import DumpStore
from app.errors import DumpsError


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The result of exporting one day or month."""

    dump: Dump | MonthDump
    is_new: bool
    removed: Sequence[str] = ()
    """Names of the files that the new one replaces."""

    def __str__(self) -> str:
        dump = self.dump
        return f"wrote {dump.name}: {dump.packages:,} packages, {dump.bytes:,} bytes"


async def published_days(engine: AsyncEngine) -> list[PublishedDay]:
    """Return all published days, latest first. Raises `DumpsError` if there is none."""
    async with snapshot(engine) as connection:
        days = await DumpRepository(connection).published_days()
    if not days:
        raise DumpsError("nothing is published, so there is nothing to export")
    return days


async def stored_months(engine: AsyncEngine) -> list[StoredMonth]:
    """Return all stored months, latest first."""
    async with snapshot(engine) as connection:
        return await DumpRepository(connection).stored_months()


@dataclass(frozen=True, slots=True)
class _Kept:
    """The periods whose files stay."""

    first_day: date = date.min
    first_month: date = date.min

    def __contains__(self, period: Period) -> bool:
        first = self.first_day if isinstance(period, date) else self.first_month
        return first_day(period) >= first


def remove_outdated(
    store: DumpStore,
    published: Sequence[PublishedDay],
    *,
    retention_days: int,
    first_month: date = date.min,
    replace_sample: bool = False,
    dump_format: DumpFormat | None = None,
) -> list[str]:
    """Remove files of days that are neither served nor in the database any more, of months before
    `first_month`, and those that a killed export left behind. Return the names of the removed
    files.

    Files of other days stay, even if the database does not have the day, because the database may
    be new or have a gap. With `replace_sample`, real data replaces the sample in the store. Raises
    `DumpsError`, and removes nothing, if real and sample data or two formats would be mixed.
    """
    dumps, latest, is_sample = store.dumps(), published[0], published[0].source == SAMPLE
    formats = {dump.format for dump in dumps.files}
    if dump_format and formats - {dump_format}:
        raise DumpsError(
            f"{store} holds {', '.join(sorted(formats))} files, but can have only one format: "
            f"export {dump_format} to another place"
        )
    others = {
        *(dump.name for dump in dumps.files if dump.is_sample != is_sample),
        *(file.name for file in store.files() if file.period and file.is_sample != is_sample),
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
    # Keep days of the database, because RETENTION_DAYS of the service may be larger than here.
    first_kept = min(published[-1].day, served_days(latest.day, retention_days).first)
    kept = _Kept(first_kept, first_month)
    listed = Dumps.listed(
        dump for dump in dumps.files if dump.period in kept and dump.name not in others
    )
    if listed != dumps:
        store.write_list(listed)
    store.remove(others)
    return sorted(others) + _remove_obsolete(store, listed, kept)


def _remove_obsolete(store: DumpStore, listed: Dumps, kept: _Kept = _Kept()) -> list[str]:
    """Remove unlisted files that are unfinished, replaced by a listed file of the same period, or
    not kept. Return their names.
    """
    names = {dump.name for dump in listed.files}
    periods = {dump.period for dump in listed.files}
    obsolete = sorted(
        file.name
        for file in store.files()
        if file.name not in names
        and not file.is_recent
        and (file.period is None or file.period in periods or file.period not in kept)
    )
    store.remove(obsolete)
    return obsolete


async def export(
    engine: AsyncEngine, store: DumpStore, periods: Sequence[Figures], dump_format: DumpFormat
) -> AsyncIterator[ExportResult]:
    """Write the days and months whose file is missing or differs from the database. The caller has
    opened and prepared the store.

    The list is written after each file, so a stopped export loses at most the work on one file. A
    day or month that was dropped from the database meanwhile is skipped.
    """
    sizes = {file.name: file.size for file in store.files()}
    for figures in periods:
        dumps = store.dumps()
        dump = dumps.of(figures.period)
        if (
            dump
            # The digest also differs if there are other breakdowns.
            and dump == dump_of(figures, dump_format, dump.bytes, dump.sha256)
            and sizes.get(dump.name) == dump.bytes
        ):
            yield ExportResult(dump, is_new=False)
        elif dump := await _write(engine, store, figures, dump_format):
            others = (one for one in dumps.files if one.period != figures.period)
            dumps = Dumps.listed([*others, dump])
            store.write_list(dumps)
            yield ExportResult(dump, is_new=True, removed=_remove_obsolete(store, dumps))


async def _write(
    engine: AsyncEngine, store: DumpStore, figures: Figures, dump_format: DumpFormat
) -> Dump | MonthDump | None:
    async with snapshot(engine) as connection:
        repository = DumpRepository(connection)
        # Figures and rows have to come from the same snapshot.
        current = await repository.record(figures.period)
        # Real data may have replaced the sample since the store was prepared.
        if current is None or (current.source == SAMPLE) != (figures.source == SAMPLE):
            return None
        name = name_of(current, dump_format)
        with store.new_file(name) as new, writer(new.file, dump_format, current) as write:
            async for rows in repository.rows(current, breakdowns_of(current)):
                # The ingest job exports beside requests.
                await asyncio.to_thread(write, rows)
    return dump_of(current, dump_format, new.bytes, new.sha256)
