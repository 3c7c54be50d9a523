"""The commands that show and check what the database holds."""

import sys
from collections.abc import AsyncIterator, Sequence
from datetime import date

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.database import read
from app.cli.options import Day, with_settings
from app.cli.progress import progress_bar
from app.cli.reports import history_report, status_report
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.runs_repository import latest_runs
from app.db.repositories.verification_repository import Difference
from app.domain.clock import utc_now
from app.errors import OperatorError
from app.ingest import verification
from app.ingest.plan import cadence_of
from app.settings import IngestSource, Settings


@click.command(short_help="Show what the database holds.")
@with_settings
def status(settings: Settings) -> None:
    """Show what the database holds."""

    async def work(engine: AsyncEngine) -> None:
        repository = DownloadsRepository(engine, settings.retention_days)
        cadence = cadence_of(settings)
        ingests = settings.source is not IngestSource.NONE
        report = status_report(
            cadence,
            next_run=cadence.schedule.next_firing(utc_now()) if ingests else None,
            days=await repository.published_days(),
            held=await repository.held_days(),
            last_run=next(iter(await latest_runs(engine, 1)), None),
            size=await repository.size(),
        )
        click.echo(report)

    read(settings, work)


@click.command(short_help="Show the last ingests.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="How many to show, latest first.",
)
@with_settings
def history(settings: Settings, *, limit: int) -> None:
    """Show the last ingests: when each began, how long it took, what it cost, what came of it."""

    async def work(engine: AsyncEngine) -> None:
        click.echo(history_report(await latest_runs(engine, limit)))

    read(settings, work)


@click.command(short_help="Compare what is published with the stored rows.")
@click.option(
    "--date", "day", type=Day(), help="UTC day. Default: all that are published, and the packages."
)
@with_settings
def verify(settings: Settings, *, day: date | None) -> None:
    """Compare what is published with the stored rows, and say what differs.

    Of each day its digest and totals, and the figures of __all__; without --date also those of the
    packages, and whether rows are left over. A difference is one line and makes the exit status 1,
    and so does a database without a published day.

    Example: python -m app verify --date 2026-11-20
    """

    async def work(engine: AsyncEngine) -> bool:
        days = await verification.days_to_verify(engine, day)
        steps = verification.verify(engine, days, packages=day is None)
        is_right = await _report_differences(steps, days)
        for one in await DownloadsRepository(engine, settings.retention_days).published_days():
            if one.day in days and one.suspect_reason:
                click.echo(f"note: {one.day} is suspect: {one.suspect_reason}")
        return is_right

    if not read(settings, work):
        sys.exit(1)


async def _report_differences(
    steps: AsyncIterator[verification.Verified], days: Sequence[date]
) -> bool:
    """Show differences as they are found, then a summary; return True if there are none.

    Raises `OperatorError` when there was nothing to compare, as after a failed restore.
    """
    verified = 0
    differences: list[Difference] = []
    with progress_bar(days) as progress:
        async for step in steps:
            for difference in step.differences:
                progress.write(str(difference))
            differences += step.differences
            if step.day:
                verified += 1
                # The bar tells of what went well.
                if progress.disable:
                    progress.write(f"{step.day} verified", file=sys.stderr)
                progress.update()
    if differences:
        in_days = len({difference.day for difference in differences})
        found = f"{len(differences)} differences in {in_days} days"
    else:
        found = "all as published"
    if not verified and not differences:
        raise OperatorError("no day is published, so nothing was verified")
    click.echo(f"{verified} days verified: {found}")
    return not differences
