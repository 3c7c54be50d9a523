"""The work of `backfill --months`: importing past months."""

import sys
from collections.abc import Sequence

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.database import database_url, migrate_and_run
from app.cli.progress import report_outcomes
from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.db.repositories.months_repository import MonthsRepository
from app.domain.clock import utc_now
from app.domain.downloads import date_ranges
from app.domain.events import KnownEvents
from app.domain.months import Month
from app.ingest.month_import import MonthPlan, check_has_days, plan_months
from app.ingest.policy import policy_of
from app.ingest.publish import PublishContext
from app.ingest.runs import DayIngester, ingest_lock
from app.ingest.sources.source import open_source
from app.settings import IngestSource, Settings


def backfill_months(
    settings: Settings,
    kind: IngestSource,
    span: tuple[Month, Month],
    *,
    force: bool,
    dry_run: bool,
) -> None:
    """Import the missing months of a span, both ends included, or print what that would cost.

    Exits with status 1 if a month fails.
    """
    # Fail before a database is started if the source is not set up.
    source = open_source(settings, kind)
    policy = policy_of(settings)

    async def plan(engine: AsyncEngine) -> MonthPlan:
        async with connect(engine) as connection:
            published = await IngestRepository(connection).published()
            stored = await MonthsRepository(connection).stored()
        if not dry_run:
            check_has_days(published)
        planned = plan_months(span, published, stored, now=utc_now(), policy=policy, again=force)
        _show(planned, policy.events)
        return planned

    async def work(engine: AsyncEngine) -> bool:
        async with ingest_lock(engine) as lock:
            months = (await plan(engine)).to_import
            outcomes = DayIngester(
                PublishContext(engine, policy, utc_now, lock), source
            ).import_months(months)
            return await report_outcomes(outcomes, months, "month", "months stored")

    with database_url(settings) as url:
        if dry_run:
            _show_costs(settings, kind, migrate_and_run(url, plan).to_import)
        elif not migrate_and_run(url, work):
            sys.exit(1)


def _show(plan: MonthPlan, events: KnownEvents) -> None:
    """Show which months are not imported, and the known events of the others."""
    if plan.of_days:
        ranges = date_ranges(plan.of_days)
        click.echo(f"not imported, but rolled up from days in the database: {ranges}", err=True)
    if plan.stored:
        click.echo(
            f"stored already, and imported again only with --force: {date_ranges(plan.stored)}",
            err=True,
        )
    for event in events.newest_first:
        affected = [one for one in plan.to_import if event.is_within(one.first, one.last)]
        if affected:
            click.echo(
                f"known event from {event.date}, in {date_ranges(affected)}: {event.summary}",
                err=True,
            )


def _show_costs(settings: Settings, kind: IngestSource, months: Sequence[Month]) -> None:
    if kind is not IngestSource.BIGQUERY:
        click.echo(f"{kind} data bills nothing")
        return
    from app.cli.costs import month_costs  # noqa: PLC0415 - slow to import

    for line in month_costs(settings, months):
        click.echo(line)
