"""Writes published days to a folder or a bucket of dumps."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import snapshot
from app.db.repositories.dump_repository import DumpRepository
from app.domain.downloads import PublishedDay, served_days
from app.dumps.formats import writer
from app.dumps.listing import (
    SAMPLE,
    Dump,
    DumpFormat,
    Dumps,
    breakdowns_of,
    columns_of,
    name_of,
)
from app.dumps.stores.store import DumpStore
from app.errors import DumpsError


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of exporting one day."""

    dump: Dump
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


def prepare(
    store: DumpStore,
    published: Sequence[PublishedDay],
    *,
    retention_days: int,
    replace_sample: bool = False,
    dump_format: DumpFormat | None = None,
) -> list[str]:
    """Remove files of days that are neither served nor in the database any more, and files that a
    killed export left behind. Return the names of the removed files.

    Files of other days stay, even if the database does not have the day, because the database may
    be new or have a gap. With `replace_sample`, real data replaces the sample in the store. Raises
    `DumpsError`, and removes nothing, if real and sample data or two formats would be mixed.
    """
    dumps, latest, is_sample = store.dumps(), published[0], published[0].source == SAMPLE
    formats = {dump.format for dump in dumps.data}
    if dump_format and formats - {dump_format}:
        raise DumpsError(
            f"{store} holds {', '.join(sorted(formats))} files, and a place has one format: "
            f"export {dump_format} to another place"
        )
    others = {
        *(dump.name for dump in dumps.data if dump.is_sample != is_sample),
        *(file.name for file in store.files() if file.day and file.is_sample != is_sample),
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
    kept = Dumps.listed(
        dump for dump in dumps.data if dump.day >= first_kept and dump.name not in others
    )
    if kept != dumps:
        store.write_list(kept)
    store.remove(others)
    return sorted(others) + _remove_obsolete(store, kept, first_kept)


def _remove_obsolete(store: DumpStore, listed: Dumps, first_kept: date = date.min) -> list[str]:
    """Remove unlisted files that are unfinished, replaced by a listed file of the same day, or
    older than the first day to keep. Return their names.
    """
    names = {dump.name for dump in listed.data}
    days = {dump.day for dump in listed.data}
    obsolete = sorted(
        file.name
        for file in store.files()
        if file.name not in names
        and not file.is_recent
        and (file.day is None or file.day in days or file.day < first_kept)
    )
    store.remove(obsolete)
    return obsolete


async def export(
    engine: AsyncEngine, store: DumpStore, days: Sequence[PublishedDay], dump_format: DumpFormat
) -> AsyncIterator[Exported]:
    """Write the days whose file is missing or differs from the published day. The caller has opened
    and prepared the store.

    The list is written after each day, so a stopped export loses at most one day's work. A day that
    was dropped from the database meanwhile is skipped.
    """
    sizes = {file.name: file.size for file in store.files()}
    for day in days:
        dumps = store.dumps()
        dump = dumps.of(day.day)
        # The digest also differs if the day has other breakdowns.
        wanted = (day.digest, day.source, day.counted_files, dump_format)
        if (
            dump
            and (dump.digest, dump.source, dump.counted_files, dump.format) == wanted
            and sizes.get(dump.name) == dump.bytes
        ):
            yield Exported(dump, is_new=False)
        elif dump := await _write(engine, store, day, dump_format):
            dumps = Dumps.listed([*(one for one in dumps.data if one.day != day.day), dump])
            store.write_list(dumps)
            yield Exported(dump, is_new=True, removed=_remove_obsolete(store, dumps))


async def _write(
    engine: AsyncEngine, store: DumpStore, day: PublishedDay, dump_format: DumpFormat
) -> Dump | None:
    async with snapshot(engine) as connection:
        repository = DumpRepository(connection)
        # Figures and rows have to come from the same snapshot.
        days = {one.day: one for one in await repository.published_days()}
        published = days.get(day.day)
        # Real data may have replaced the sample since the store was prepared.
        if published is None or (published.source == SAMPLE) != (day.source == SAMPLE):
            return None
        name = name_of(published, dump_format)
        with store.new_file(name) as new, writer(new.file, dump_format, published) as write:
            async for rows in repository.rows(day.day, breakdowns_of(published)):
                write(rows)
    return Dump(
        day=day.day,
        name=name,
        url=name,
        format=dump_format,
        bytes=new.bytes,
        sha256=new.sha256,
        source=published.source,
        packages=published.packages,
        downloads=published.downloads,
        downloads_with_mirrors=published.downloads_with_mirrors,
        digest=published.digest,
        columns=columns_of(published),
        counted_files=published.counted_files,
    )
