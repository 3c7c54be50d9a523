"""The command that writes dumps."""

import sys
from collections.abc import AsyncIterator, Sequence
from datetime import date
from pathlib import Path

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.database import read
from app.cli.options import Day, Destination, with_settings
from app.cli.progress import progress_bar
from app.dumps.bucket import DumpBucket
from app.dumps.export import Exported, days_to_export, forget_dropped
from app.dumps.export import export as export_days
from app.dumps.folder import DumpFolder
from app.dumps.listing import DumpFormat
from app.dumps.store import DumpStore
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
@with_settings
def export(
    settings: Settings,
    *,
    day: date | None,
    start: date | None,
    end: date | None,
    to: str | Path | None,
    dump_format: str,
) -> None:
    """Write published days to files, one a day, and a list of them.

    A day whose file is right already is not written again, and the files of days that are not
    served any more go. Stopped at any point, the same command goes on where it was.

    Example: python -m app export --to /srv/dumps
    """
    if day and (start or end):
        raise click.BadParameter("--start and --end go without it.", param_hint="--date")
    if start and end and start > end:
        raise click.BadParameter(f"{start} is after --end {end}.", param_hint="--start")
    first, last = day or start or date.min, day or end or date.max

    async def work(engine: AsyncEngine) -> None:
        store = _store(to or settings.dumps_dir)
        with store.opened():
            # Listed now, when no other export can have written a later day meanwhile.
            published = await days_to_export(engine, settings.retention_days)
            days = [one for one in published if first <= one.day <= last]
            if not days:
                raise DayNotPublishedError(day or start or last)
            forget_dropped(store, published)
            exported = export_days(
                engine,
                store,
                days,
                DumpFormat(dump_format),
                retention_days=settings.retention_days,
            )
            await _report_exported(exported, store, [one.day for one in days])

    read(settings, work)


def _store(destination: str | Path) -> DumpStore:
    if isinstance(destination, Path):
        return DumpFolder(destination)
    return DumpBucket.at(destination)


async def _report_exported(
    exported: AsyncIterator[Exported], store: DumpStore, days: Sequence[date]
) -> None:
    """Show each file as it is written and a summary in the end."""
    written = unchanged = 0
    try:
        with progress_bar(days) as progress:
            async for one in exported:
                written += one.is_new
                unchanged += not one.is_new
                # The bar tells of what went well.
                if progress.disable and one.is_new:
                    progress.write(str(one), file=sys.stderr)
                progress.update()
    finally:
        click.echo(f"{written} of {len(days)} days written to {store}, {unchanged} unchanged")
