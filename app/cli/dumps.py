"""The command that writes dumps."""

import sys
from collections.abc import AsyncIterator, Sequence
from datetime import date
from pathlib import Path
from typing import NoReturn

import click
from sqlalchemy.ext.asyncio import AsyncEngine
from tqdm import tqdm

from app.cli.database import read
from app.cli.options import Day, Destination, with_settings
from app.cli.progress import progress_bar
from app.domain.clock import utc_now
from app.dumps.export import Exported, days_to_export, prepare
from app.dumps.export import export as export_days
from app.dumps.listing import DumpFormat
from app.dumps.stores.bucket import DumpBucket
from app.dumps.stores.folder import DumpFolder
from app.dumps.stores.store import DumpStore
from app.errors import DayNotPublishedError
from app.settings import Settings


@click.command(short_help="Write published days to files.")
@click.option("--date", "day", type=Day(), help="UTC day. Default: all that are served.")
@click.option("--start", type=Day(), help="First UTC day of several. Default: the first served.")
@click.option("--end", type=Day(), help="Last UTC day of several. Default: the latest published.")
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
    help="Of the files.",
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
    """Write published days to files, one a day, and a list of them.

    A day whose file is right already is not written again. Removed are files that a new one
    replaces, and those for days before the days served: each is one line. Stopped at any point, the
    same command goes on where it was.

    Example: python -m app export --to /srv/dumps
    """
    if day and (start or end):
        raise click.BadParameter("--start and --end go without it.", param_hint="--date")
    if start and end and start > end:
        raise click.BadParameter(f"{start} is after --end {end}.", param_hint="--start")
    first, last = day or start or date.min, day or end or date.max

    async def work(engine: AsyncEngine) -> None:
        retention_days = settings.retention_days
        store = _store(to or settings.dumps_dir)
        with store.opened():
            # Read inside the lock: another export may have written a later day while this one
            # waited.
            published = await days_to_export(engine, retention_days)
            days = [one for one in published if first <= one.day <= last]
            if not days:
                raise DayNotPublishedError(day or start or last)
            removed = prepare(
                store, published, retention_days=retention_days, replace_sample=replace_sample
            )
            exported = export_days(
                engine, store, days, DumpFormat(dump_format), retention_days=retention_days
            )
            await _report_exported(exported, store, [one.day for one in days], removed)

    read(settings, work)


def _store(destination: str | Path) -> DumpStore:
    if isinstance(destination, Path):
        return DumpFolder(destination)
    return DumpBucket.at(destination, utc_now)


async def _report_exported(
    exported: AsyncIterator[Exported],
    store: DumpStore,
    days: Sequence[date],
    removed: Sequence[str],
) -> None:
    """Show each file as it is written or removed, then a summary. `removed` are the names of files
    that were removed before.
    """
    written = unchanged = 0
    removals = len(removed)
    try:
        with progress_bar(days) as progress:
            _show_removed(progress, removed)
            async for one in exported:
                written += one.is_new
                unchanged += not one.is_new
                # A bar shows what went well by itself.
                if progress.disable and one.is_new:
                    progress.write(str(one), file=sys.stderr)
                _show_removed(progress, one.removed)
                removals += len(one.removed)
                progress.update()
    finally:
        click.echo(
            f"{written} of {len(days)} days written to {store}, {unchanged} unchanged"
            + (f", {removals} files removed" if removals else "")
        )


def _show_removed(progress: "tqdm[NoReturn]", names: Sequence[str]) -> None:
    for name in names:
        progress.write(f"removed {name}", file=sys.stderr)
