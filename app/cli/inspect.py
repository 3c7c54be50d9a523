"""The commands that show and check what the database contains."""

import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, date, datetime

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.database import run_read_only
from app.cli.options import DayType, with_settings
from app.db.repositories.downloads_repository import DownloadsRepository, Size
from app.db.repositories.runs_repository import latest_runs
from app.db.repositories.verification_repository import Difference
from app.domain.breakdowns import OPTIONAL_BREAKDOWNS
from app.domain.clock import utc_now
from app.domain.downloads import (
    RECENT_STATUS_DAYS,
    HeldDay,
    IngestRun,
    PartitionFields,
    PublishedDay,
    date_ranges,
    gaps,
)
from app.domain.events import CountedFiles
from app.domain.months import Month, StoredMonth
from app.errors import OperatorError
from app.ingest import verification
from app.ingest.plan import held_due_at, suspect_due_at
from app.settings import IngestSource, Settings

COUNTED = {CountedFiles.ALL: "all files", CountedFiles.ARTIFACTS: "only .whl, .tar.gz and .zip"}


@click.command(short_help="Show what the database contains.")
@with_settings
def status(settings: Settings) -> None:
    """Show which days are published, held or suspect, and their figures."""

    async def work(engine: AsyncEngine) -> None:
        repository = DownloadsRepository(engine, settings.retention_days)
        publication = await repository.publication()
        ingests = settings.source is not IngestSource.NONE
        report = status_report(
            settings,
            months=publication.months if publication else (),
            next_run=settings.ingest_schedule.next_firing(utc_now()) if ingests else None,
            days=await repository.published_days(),
            held=await repository.held_days(),
            last_run=next(iter(await latest_runs(engine, 1)), None),
            size=await repository.size(),
        )
        click.echo(report)

    run_read_only(settings, work)


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

    run_read_only(settings, work)


@click.command(short_help="Compare published days with the stored rows.")
@click.option(
    "--date", "day", type=DayType(), help="UTC day. Default: all published days, and the packages."
)
@with_settings
def verify(settings: Settings, *, day: date | None) -> None:
    """Compare the recorded figures of published days with the stored rows.

    The digest, the totals and the figures of __all__ are computed again for each day. Without
    --date, the stored months and the figures of the packages are checked too, and rows of
    unpublished days are reported. Months whose days still exist are summed again. Each difference
    is one line. The exit status is 1 if there is a difference or no published day.

    Example: pypi-stats verify --date 2026-11-20
    """

    async def work(engine: AsyncEngine) -> bool:
        days = await verification.days_to_verify(engine, day)
        is_right = await _report(verification.verify(engine, days, packages=day is None))
        for one in await DownloadsRepository(engine, settings.retention_days).published_days():
            if one.day in days and one.suspect_reason:
                click.echo(f"note: {one.day} is suspect: {one.suspect_reason}")
        return is_right

    if not run_read_only(settings, work):
        sys.exit(1)


async def _report(steps: AsyncIterator[verification.VerificationStep]) -> bool:
    """Show each difference, then a summary. Return True if there are none.

    Raises `OperatorError` if there is nothing to compare, for example after a failed restore.
    """
    days, months, differences = 0, 0, list[Difference]()
    async for step in steps:
        for difference in step.differences:
            click.echo(str(difference))
        differences += step.differences
        if step.period:
            is_month = isinstance(step.period, Month)
            days, months = days + (not is_month), months + is_month
            click.echo(f"{step.period} verified", err=True)
    if not (days or months or differences):
        raise OperatorError("no day is published, so nothing was verified")
    found = f"{len(differences)} differences in {len({one.day for one in differences})} days"
    verified = f"{days} days and {months} months" if months else f"{days} days"
    click.echo(f"{verified} verified: {found if differences else 'all as published'}")
    return not differences


def status_report(
    settings: Settings,
    *,
    next_run: datetime | None,
    days: Sequence[PublishedDay],
    held: Sequence[HeldDay],
    months: Sequence[StoredMonth] = (),
    last_run: IngestRun | None,
    size: Size,
) -> str:
    latest = days[-1] if days else None
    counted = Counter(COUNTED[day.counted_files] for day in days)
    breakdowns = Counter(
        one.name for one in OPTIONAL_BREAKDOWNS for day in days if one.column in day.breakdowns
    )
    suspect = {day.day: day for day in days if day.suspect_reason}
    packages = f"{size.packages:,}"
    if latest:
        packages += f", {latest.packages:,} of them on the latest day"
    run = last_run
    rows = {
        "source": ", ".join(sorted({day.source for day in days})),
        "followed": _followed(latest.followed) if latest else "",
        "days": f"{len(days)} of {settings.retention_days}",
        "first day": str(days[0].day) if days else "",
        "latest day": str(latest.day) if latest else "",
        "months": f"{len(months)} from {months[0].period} to {months[-1].period}" if months else "",
        "published": _moment(latest.published_at) if latest else "",
        "gaps": date_ranges(gaps(days)),
        "breakdowns": _by_days(breakdowns),
        "counted": _by_days(counted) if len(counted) > 1 else "".join(counted),
        "packages": packages,
        "size": f"{size.size_bytes / 2**20:,.1f} MiB",
        "last ingest": f"{_moment(run.started_at)}: {run.period} {_outcome(run)}" if run else "",
        "next job": _moment(next_run) if next_run else "",
        "held": date_ranges([one.day for one in held]),
    }
    lines = [_line(*row) for row in rows.items()]
    for one in held:
        again = _moment(held_due_at(settings, one))
        checks = f"tried {one.readings} times, next at {again}"
        lines.append(f"  {one.day} {one.reason}; {checks}; {_seen(one)}")
    lines.append(_line("suspect", date_ranges(suspect)))
    for day in suspect.values():
        again = _moment(suspect_due_at(day))
        lines.append(f"  {day.day} {day.suspect_reason}; next check at {again}; {_seen(day)}")
    if days:
        head = ("day", "packages", "downloads", "published", "partition rows", "modified")
        figures = []
        for day in days[: -RECENT_STATUS_DAYS - 1 : -1]:
            counts = (f"{day.packages:,}", f"{day.downloads:,}")
            figures.append((str(day.day), *counts, _moment(day.published_at), *_partition(day)))
        lines += ["", *_table(head, *figures)]
    return "\n".join(lines)


def history_report(runs: Sequence[IngestRun]) -> str:
    if not runs:
        return "no day has been ingested yet"
    head = ("start", "day", "source", "seconds", "rows", "bytes billed")
    rows = []
    for run in runs:
        seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at else None
        figures = (_number(seconds, ",.1f"), _number(run.rows), _number(run.bytes_billed))
        start = _moment(run.started_at)
        rows.append((start, str(run.period), run.source, *figures, *_partition(run), _outcome(run)))
    return "\n".join(_table((*head, "partition rows", "modified", "outcome"), *rows))


def _line(name: str, value: str) -> str:
    return f"{name:<12} {value or 'none'}"


def _table(*rows: Sequence[str]) -> list[str]:
    """Return the rows with all columns but the last one right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]


def _by_days(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} on {count} days" for name, count in counts.items() if count)


def _outcome(run: IngestRun) -> str:
    return f"{run.outcome}: {run.error}" if run.error else run.outcome


def _followed(names: str | None) -> str:
    if names is None:
        return "all packages"
    return names.replace(" ", ", ") or "packages whose days are not published yet"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _partition(seen: PartitionFields) -> tuple[str, str]:
    """Return the number of rows of the source's partition, and when it was modified."""
    partition = seen.partition
    return (f"{partition.rows:,}", _moment(partition.modified_at)) if partition else ("-", "-")


def _seen(seen: PartitionFields) -> str:
    if not seen.partition:
        return "no partition seen"
    rows, modified_at = _partition(seen)
    return f"partition of {rows} rows, modified {modified_at}"


def _number(number: float | None, form: str = ",") -> str:
    return "-" if number is None else format(number, form)
