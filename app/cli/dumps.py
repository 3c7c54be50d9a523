"""The command that writes dumps."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import date
from pathlib import Path

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.database import run_read_only
from app.cli.options import DayType, Destination, MonthsType, check_order, with_settings
from app.cli.progress import progress_of
from app.domain.clock import utc_now
from app.domain.downloads import served_days
from app.domain.months import Month, StoredMonth
from app.dumps.export import ExportResult, published_days, remove_outdated, stored_months
from app.dumps.export import export as export_files
from app.dumps.listing import DumpFormat, Figures, MonthDump
from app.dumps.stores.folder import DumpFolder
from app.dumps.stores.store import DumpStore
from app.errors import DayNotPublishedError, MonthsNotStoredError
from app.ingest.policy import policy_of
from app.ingest.rollup import first_kept_month
from app.settings import Settings


@click.command(short_help="Write published days and stored months to files.")
@click.option(
    "--date",
    "day",
    type=DayType(),
    help="UTC day. Default: all days that are served, and all stored months.",
)
@click.option(
    "--start", type=DayType(), help="First UTC day of several. Default: the first served."
)
@click.option(
    "--end", type=DayType(), help="Last UTC day of several. Default: the latest published."
)
@click.option(
    "--months", "span", type=MonthsType(), help="Stored months instead of days: 2018-01..2026-05."
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
    span: tuple[Month, Month] | None,
    to: str | Path | None,
    dump_format: str,
    replace_sample: bool,
) -> None:
    """Write each published day and each stored month to a file, and list the files.

    Days and months whose file is current are skipped. Files that a new one replaces are removed,
    and so are files of days that are neither served nor in the database any more, and of months
    before KEEP_MONTHS. Each written or removed file is one line. If the command is stopped, run it
    again to continue.

    Example: pypi-stats export --to /srv/dumps
    """
    if day and (start or end):
        raise click.BadParameter("can't be combined with --start or --end.", param_hint="--date")
    if span and (day or start or end):
        raise click.BadParameter(
            "can't be combined with --date, --start or --end.", param_hint="--months"
        )
    check_order(start, end)
    first, last = day or start or date.min, day or end or date.max

    async def work(engine: AsyncEngine) -> None:
        store = _store(to or settings.dumps_dir)
        with store.opened():
            # Read under the lock: a previous export may have written a later day meanwhile.
            published = await published_days(engine)
            window = served_days(published[0].day, settings.retention_days).within(first, last)
            days = [one for one in published if not span and window.first <= one.day <= window.last]
            if not (days or span):
                raise DayNotPublishedError(day or start or last)
            months = [
                one
                for one in await stored_months(engine)
                if (span[0] <= one.period <= span[1] if span else not (day or start or end))
            ]
            if span and not months:
                raise MonthsNotStoredError(*span)
            removed = remove_outdated(
                store,
                published,
                retention_days=settings.retention_days,
                first_month=first_kept_month(published[0].day, policy_of(settings)),
                replace_sample=replace_sample,
                dump_format=DumpFormat(dump_format),
            )
            files: list[Figures] = [*days, *months]
            exported = export_files(engine, store, files, DumpFormat(dump_format))
            await _report(exported, store, files, removed)

    run_read_only(settings, work)


def _store(destination: str | Path) -> DumpStore:
    if isinstance(destination, Path):
        return DumpFolder(destination)
    from app.dumps.stores.bucket import DumpBucket  # noqa: PLC0415 - pyarrow is slow to import

    return DumpBucket.at(destination, utc_now)


async def _report(
    exported: AsyncIterator[ExportResult],
    store: DumpStore,
    files: Sequence[Figures],
    removed: Sequence[str],
) -> None:
    """Show each file when it is written or removed, then a summary. `removed` contains the names of
    files that were removed before.
    """
    done: list[ExportResult] = []
    removals = list(removed)
    try:
        with progress_of("file", len(files)) as progress:
            for name in removed:
                progress.write(f"removed {name}")
            async for one in exported:
                done.append(one)
                progress.advance(one if one.is_new else None)
                for name in one.removed:
                    progress.write(f"removed {name}")
                removals += one.removed
    finally:
        new = Counter(isinstance(one.dump, MonthDump) for one in done if one.is_new)
        total = Counter(isinstance(one, StoredMonth) for one in files)
        written = " and ".join(
            f"{new[is_month]} of {total[is_month]} {unit}"
            for is_month, unit in ((False, "days"), (True, "months"))
            if total[is_month]
        )
        click.echo(
            f"{written} written to {store}, {len(done) - new.total()} unchanged"
            + (f", {len(removals)} files removed" if removals else "")
        )
