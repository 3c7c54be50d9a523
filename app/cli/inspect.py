"""The commands that show and check what the database contains."""

import sys
from collections.abc import AsyncIterator, Sequence
from datetime import date

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.database import read
from app.cli.options import Day, with_settings
from app.cli.progress import progress_of
from app.cli.reports import history_report, status_report
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.runs_repository import latest_runs
from app.domain.clock import utc_now
from app.errors import OperatorError
from app.ingest import verification
from app.ingest.plan import cadence_of
from app.settings import IngestSource, Settings


@click.command(short_help="Show what the database contains.")
@with_settings
def status(settings: Settings) -> None:
    """Show which days are published, held or suspect, and their figures."""

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


@click.command(short_help="Show the latest ingests.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Number of ingests to show, latest first.",
)
@with_settings
def history(settings: Settings, *, limit: int) -> None:
    """Show the latest ingests: start, duration, rows, bytes billed and outcome of each."""

    async def work(engine: AsyncEngine) -> None:
        click.echo(history_report(await latest_runs(engine, limit)))

    read(settings, work)


@click.command(short_help="Compare published days with the stored rows.")
@click.option(
    "--date", "day", type=Day(), help="UTC day. Default: all published days, and the packages."
)
@with_settings
def verify(settings: Settings, *, day: date | None) -> None:
    """Compare the recorded figures of published days with the stored rows.

    The digest, the totals and the figures of __all__ are computed again for each day. Without
    --date, the figures of the packages are checked too, and whether rows are left over. Each
    difference is one line. The exit status is 1 if there is a difference, or no published day.

    Example: pypi-stats verify --date 2026-11-20
    """

    async def work(engine: AsyncEngine) -> bool:
        days = await verification.days_to_verify(engine, day)
        is_right = await _report(verification.verify(engine, days, packages=day is None), days)
        for one in await DownloadsRepository(engine, settings.retention_days).published_days():
            if one.day in days and one.suspect_reason:
                click.echo(f"note: {one.day} is suspect: {one.suspect_reason}")
        return is_right

    if not read(settings, work):
        sys.exit(1)


async def _report(steps: AsyncIterator[verification.Verified], days: Sequence[date]) -> bool:
    """Show differences as they are found, then a summary. Return True if there are none.

    Raises `OperatorError` if there was nothing to compare, as after a failed restore.
    """
    verified = differences = 0
    different_days = set()
    with progress_of(days) as progress:
        async for step in steps:
            for difference in step.differences:
                progress.write(difference, sys.stdout)
                different_days.add(difference.day)
            differences += len(step.differences)
            if step.day:
                verified += 1
                progress.advance(f"{step.day} verified")
    if not verified and not differences:
        raise OperatorError("no day is published, so nothing was verified")
    found = f"{differences} differences in {len(different_days)} days"
    click.echo(f"{verified} days verified: {found if differences else 'all as published'}")
    return not differences
