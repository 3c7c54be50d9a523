"""The command that writes dumps."""

from collections.abc import AsyncIterator, Sequence
from datetime import date
from pathlib import Path

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.database import read
from app.cli.options import DayType, Destination, check_order, with_settings
from app.cli.progress import progress_of
from app.domain.clock import utc_now
from app.domain.downloads import served_days
from app.dumps.export import ExportResult, published_days, remove_outdated
from app.dumps.export import export as export_days
from app.dumps.listing import DumpFormat
from app.dumps.stores.folder import DumpFolder
from app.dumps.stores.store import DumpStore
from app.errors import DayNotPublishedError
from app.settings import Settings


@click.command(short_help="Write published days to files.")
@click.option("--date", "day", type=DayType(), help="UTC day. Default: all days that are served.")
@click.option(
    "--start", type=DayType(), help="First UTC day of several. Default: the first served."
)
@click.option(
    "--end", type=DayType(), help="Last UTC day of several. Default: the latest published."
)
@click.option(
    "--to",
    type=Destination(),
    metavar="PLACE",
    help="Folder, s3://bucket/prefix or gs://bucket/prefix. Default: DUMPS_DIR.",
)
@click.option(
    "--format",
    "dump_format",
    type=click.Choice([one.value for one in DumpFormat]),
    default=DumpFormat.PARQUET.value,
    show_default=True,
    help="Format of the files.",
)
@click.option(
    "--replace-sample",
    is_flag=True,
    help="Remove the sample data from a destination that real data is exported to.",
)
@with_settings
def export(
    settings: Settings,
    *,
    day: date | None,
    start: date | None,
    end: date | None,
    to: str | Path | None,
    dump_format: str,
    replace_sample: bool,
) -> None:
    """Write each published day to a file, and list the files.

    Days whose file is current are skipped. Files that a new one replaces are removed, and so are
    files of days that are neither served nor in the database any more. Each written or removed file
    is one line. If the command is stopped, run it again to continue.

    Example: pypi-stats export --to /srv/dumps
    """
    if day and (start or end):
        raise click.BadParameter("can't be combined with --start or --end.", param_hint="--date")
    check_order(start, end)
    first, last = day or start or date.min, day or end or date.max

    async def work(engine: AsyncEngine) -> None:
        store = _store(to or settings.dumps_dir)
        with store.opened():
            # Read under the lock: a previous export may have written a later day meanwhile.
            published = await published_days(engine)
            window = served_days(published[0].day, settings.retention_days).within(first, last)
            days = [one for one in published if window.first <= one.day <= window.last]
            if not days:
                raise DayNotPublishedError(day or start or last)
            removed = remove_outdated(
                store,
                published,
                retention_days=settings.retention_days,
                replace_sample=replace_sample,
                dump_format=DumpFormat(dump_format),
            )
            exported = export_days(engine, store, days, DumpFormat(dump_format))
            await _report(exported, store, [one.day for one in days], removed)

    read(settings, work)


def _store(destination: str | Path) -> DumpStore:
    if isinstance(destination, Path):
        return DumpFolder(destination)
    from app.dumps.stores.bucket import DumpBucket  # noqa: PLC0415 - pyarrow is slow to import

    return DumpBucket.at(destination, utc_now)


async def _report(
    exported: AsyncIterator[ExportResult],
    store: DumpStore,
    days: Sequence[date],
    removed: Sequence[str],
) -> None:
    """Show each file when it is written or removed, then a summary. `removed` contains the names of
    files that were removed before.
    """
    done: list[ExportResult] = []
    removals = list(removed)
    try:
        with progress_of(days) as progress:
            for name in removed:
                progress.write(f"removed {name}")
            async for one in exported:
                done.append(one)
                progress.advance(one if one.is_new else None)
                for name in one.removed:
                    progress.write(f"removed {name}")
                removals += one.removed
    finally:
        written = sum(one.is_new for one in done)
        click.echo(
            f"{written} of {len(days)} days written to {store}, {len(done) - written} unchanged"
            + (f", {len(removals)} files removed" if removals else "")
        )
