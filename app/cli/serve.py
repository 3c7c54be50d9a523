"""The commands that serve the API, migrate the database, and print the OpenAPI document."""

import json
import logging
import os
import sys
from functools import partial

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.database import database_url, migrate_and_run
from app.cli.ingest import fill_with_samples
from app.cli.options import with_settings
from app.db.engine import check_writable
from app.db.repositories.downloads_repository import DownloadsRepository
from app.ingest.daily_dumps import check_destination
from app.ingest.publish import check_scope
from app.ingest.sources.source import open_source
from app.logs import LOG_STREAM
from app.settings import IngestSource, Settings

log = logging.getLogger(__name__)


@click.command(short_help="Serve the API until stopped.")
@with_settings
def serve(settings: Settings) -> None:
    """Migrate the database and serve the API until stopped.

    If the source of downloads is the sample, an empty database is filled with it first. After
    SIGTERM or Ctrl-C, running requests have GRACEFUL_STOP_SECONDS to finish, and the process exits
    within 2 seconds after that. The exit status is 0.
    """
    # The other commands start a third faster without the server.
    from app.serving.server import (  # noqa: PLC0415 - slow to import
        StopDeadline,
        check_address,
        run_server,
    )

    check_address(settings.host, settings.port)
    if settings.source is not IngestSource.NONE:
        # Fail at the start, and not in the next run of the job, if the source is not set up.
        open_source(settings, settings.source)
    if settings.dumps_daily:
        check_destination(settings)
    deadline = StopDeadline(settings.graceful_stop_seconds)
    with database_url(settings, stop_seconds=deadline.seconds_left) as url:
        migrate_and_run(
            url, partial(_prepare, settings), wait_seconds=settings.database_wait_seconds
        )
        os.environ["DATABASE_URL"] = url
        run_server(settings, deadline)
    # Exit at once. Python would wait for threads that hang, for example in a read from a network
    # disk.
    LOG_STREAM.drain()
    sys.stderr.flush()
    os._exit(0)


async def _prepare(settings: Settings, engine: AsyncEngine) -> None:
    if settings.source is not IngestSource.NONE:
        await check_writable(engine)
    repository = DownloadsRepository(engine, settings.retention_days)
    days = await repository.published_days()
    holds_sample = any(day.source == IngestSource.SAMPLE for day in days)
    ingests_beside = settings.source is IngestSource.SAMPLE or not holds_sample
    if settings.source is not IngestSource.NONE and ingests_beside:
        check_scope(days, settings.followed)
    if settings.source is IngestSource.SAMPLE and (holds_sample or not days):
        # This also completes a sample whose creation was stopped.
        await fill_with_samples(settings, engine)
        holds_sample = True
    if holds_sample:
        log.warning("the database holds SAMPLE data: the figures are made up")
    elif not days:
        log.warning(
            "the database is empty: each run of the ingest job adds up to %d days, and "
            "`pypi-stats backfill` adds all of them",
            settings.ingest_max_days_per_run,
        )


@click.command(short_help="Migrate the database's schema.")
@with_settings
def migrate(settings: Settings) -> None:
    """Migrate the database's schema. All commands that change the database do so too."""

    async def nothing(_: AsyncEngine) -> None:
        pass

    with database_url(settings) as url:
        migrate_and_run(url, nothing)


@click.command(short_help="Print the OpenAPI document.")
@with_settings
def openapi(settings: Settings) -> None:
    """Print the OpenAPI document, as JSON."""
    from app.main import create_app  # noqa: PLC0415 - as in `serve`

    app = create_app(settings, "postgresql:///unused")
    click.echo(json.dumps(app.openapi(), indent=2))
