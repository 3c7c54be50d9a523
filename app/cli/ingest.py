"""The commands that change which days are published."""

import logging
import sys
from dataclasses import replace
from datetime import date
from functools import partial

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.database import database_url, migrate_and_run
from app.cli.months import backfill_months
from app.cli.options import (
    DayType,
    MonthsType,
    check_order,
    replace_sample_option,
    source_option,
    with_settings,
)
from app.cli.progress import progress_of, report_outcomes
from app.domain.breakdowns import columns_with
from app.domain.clock import utc_now
from app.domain.months import Month
from app.ingest.followed import forget_unfollowed
from app.ingest.plan import check_ingestible, days_to_backfill, days_to_seed, latest_complete_day
from app.ingest.policy import policy_of
from app.ingest.publish import PublishContext, publish_held, publish_plausible_held
from app.ingest.retention import expire as drop_expired
from app.ingest.rollup import roll_up_due
from app.ingest.runs import DayIngester, ingest_lock, published_days
from app.ingest.sources.source import open_source
from app.settings import IngestSource, Settings

log = logging.getLogger(__name__)


@click.command(short_help="Publish one day.")
@click.option("--date", "day", type=DayType(), help="UTC day. Default: the latest complete one.")
@source_option
@replace_sample_option
@click.option(
    "--force",
    is_flag=True,
    help="Publish the day even if it is not plausible, or if its published rows have more "
    "downloads. If the day is held, its held rows are published, and the source is not read.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only print the costs per day, per month and of the first backfill. This is free.",
)
@with_settings
def ingest(
    settings: Settings,
    *,
    day: date | None,
    source: str | None,
    replace_sample: bool,
    force: bool,
    dry_run: bool,
) -> None:
    """Publish one day. A published day is replaced, unless the source has fewer downloads now.

    A day that is not plausible is held: stored, but not served.

    Example: pypi-stats ingest --date 2026-11-20
    """
    day = day or latest_complete_day(utc_now())
    kind = IngestSource(source or settings.source)
    check_ingestible(day, utc_now())
    if dry_run and kind is IngestSource.BIGQUERY:
        from app.cli.costs import cost_report  # noqa: PLC0415 - slow to import

        click.echo(cost_report(settings, day))
        return
    if not force:
        # Fail before a database is started if the source is not set up.
        open_source(settings, kind)
    if dry_run:
        click.echo(f"{day}: {kind} data bills nothing")
        return

    async def work(engine: AsyncEngine) -> None:
        async with ingest_lock(engine) as lock:
            policy = replace(policy_of(settings), force=force, replace_sample=replace_sample)
            context = PublishContext(engine, policy, utc_now, lock)
            if force and (published := await publish_held(context, day)):
                click.echo(str(published))
            else:
                ingester = DayIngester(context, open_source(settings, kind))
                click.echo(str(await ingester.ingest_day(day)))
                await _publish_plausible_held(context)
            await _roll_up(context, settings)

    with database_url(settings) as url:
        migrate_and_run(url, work)


async def _publish_plausible_held(context: PublishContext) -> None:
    async for published in publish_plausible_held(context):
        click.echo(f"{published}, which was held", err=True)


async def _roll_up(context: PublishContext, settings: Settings) -> None:
    async for month in roll_up_due(context, settings):
        log.info("rolled up %s", month)


@click.command(short_help="Publish the days, or import the months, that are missing.")
@click.option(
    "--start",
    type=DayType(),
    help="First UTC day. Default: the first of the RETENTION_DAYS days that end with --end.",
)
@click.option("--end", type=DayType(), help="Last UTC day. Default: the latest complete one.")
@click.option(
    "--months",
    "span",
    type=MonthsType(),
    help="Past months to import instead of days, such as 2018-01..2026-05.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Also read days or months that are stored already. Held days stay held, and a published "
    "day is not replaced by fewer downloads: `ingest --force` does that.",
)
@click.option(
    "--dry-run", is_flag=True, help="Only print the cost of each of the --months. This is free."
)
@source_option
@replace_sample_option
@with_settings
def backfill(
    settings: Settings,
    *,
    start: date | None,
    end: date | None,
    span: tuple[Month, Month] | None,
    force: bool,
    dry_run: bool,
    source: str | None,
    replace_sample: bool,
) -> None:
    """Publish the days from --start to --end that are missing, latest first.

    With --months, import the months that are missing, latest first, to extend the monthly history
    beyond the days that are stored.

    If a day or month fails, the others are still published, and the exit status is 1. If the
    command is stopped, run it again to continue.

    Example: pypi-stats backfill --start 2026-11-01 --end 2026-11-20
    """
    if span:
        if start or end or replace_sample:
            raise click.BadParameter(
                "can't be combined with --start, --end or --replace-sample.", param_hint="--months"
            )
        kind = IngestSource(source or settings.source)
        backfill_months(settings, kind, span, force=force, dry_run=dry_run)
        return
    if dry_run:
        raise click.BadParameter(
            "requires --months; `pypi-stats ingest --dry-run` prints the costs of days.",
            param_hint="--dry-run",
        )
    end = end or latest_complete_day(utc_now())
    check_order(start, end)
    opened = open_source(settings, IngestSource(source or settings.source))

    async def work(engine: AsyncEngine) -> bool:
        async with ingest_lock(engine) as lock:
            policy = replace(
                policy_of(settings), replace_sample=replace_sample, only_if_changed=not force
            )
            context = PublishContext(engine, policy, utc_now, lock)
            await forget_unfollowed(context, is_forced=force)
            # A held day may have become plausible even if its source has not changed.
            await _publish_plausible_held(context)
            days = days_to_backfill(
                await published_days(engine), start, end, now=utc_now(), policy=policy, again=force
            )
            unit = "days" if force else "missing days"
            outcomes = DayIngester(context, opened).backfill(days)
            succeeded = await report_outcomes(outcomes, days, "day", f"{unit} published")
            await _roll_up(context, settings)
            return succeeded

    with database_url(settings) as url:
        if not migrate_and_run(url, work):
            sys.exit(1)


@click.command(short_help="Drop days that are not served any more.")
@with_settings
def expire(settings: Settings) -> None:
    """Drop the days of months that end before the first day served.

    Their months are rolled up before. Stored months beyond KEEP_MONTHS are deleted, and so are
    packages without downloads in a day or month that stays.
    """

    async def work(engine: AsyncEngine) -> None:
        async with ingest_lock(engine) as lock:
            context = PublishContext(engine, policy_of(settings), utc_now, lock)
            await _roll_up(context, settings)
            click.echo(str(await drop_expired(engine, context.policy, utc_now())))

    with database_url(settings) as url:
        migrate_and_run(url, work)


@click.command(short_help="Fill the database with sample data.")
@with_settings
def seed(settings: Settings) -> None:
    """Fill the days served with sample data, unless the database contains real data."""
    with database_url(settings) as url:
        migrate_and_run(url, partial(fill_with_samples, settings))


async def fill_with_samples(settings: Settings, engine: AsyncEngine) -> None:
    source = open_source(settings, IngestSource.SAMPLE)
    policy = policy_of(settings)
    async with ingest_lock(engine) as lock:
        context = PublishContext(engine, policy, utc_now, lock)
        days = days_to_seed(
            await published_days(engine),
            now=utc_now(),
            policy=policy,
            columns=columns_with(settings.breakdowns_of(IngestSource.SAMPLE)),
        )
        if days:
            log.info("creating sample data of %d days", len(days))
        ingester = DayIngester(context, source)
        with progress_of("day", len(days)) as progress:
            for day in days:
                await ingester.ingest_day(day)
                progress.advance()
        await _roll_up(context, settings)
