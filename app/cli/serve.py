"""The commands that serve the API, and what goes with it."""

import json
import logging
import os
import sys
from functools import partial

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.database import database_url, run
from app.cli.ingest import fill_with_samples
from app.cli.options import with_settings
from app.db.repositories.downloads_repository import DownloadsRepository
from app.ingest.sources.source import open_source
from app.settings import IngestSource, Settings

log = logging.getLogger(__name__)


@click.command(short_help="Serve the API until stopped.")
@with_settings
def serve(settings: Settings) -> None:
    """Migrate the database and serve the API until stopped.

    When the source of downloads is the sample, an empty database is filled with it first. SIGTERM
    or Ctrl-C lets running requests finish, for up to GRACEFUL_STOP_SECONDS, and closes everything
    within 2 seconds after that. The exit status is 0.
    """
    # Other commands start a third sooner without the server.
    from app.serving.server import StopDeadline, check_address, run_server  # noqa: PLC0415

    check_address(settings.host, settings.port)
    if settings.source is not IngestSource.NONE:
        # What is missing for the ingest job shows now, not at night.
        open_source(settings, settings.source)
    deadline = StopDeadline(settings.graceful_stop_seconds)
    with database_url(settings, stop_seconds=deadline.seconds_left) as url:
        run(url, partial(_prepare, settings), wait_seconds=settings.database_wait_seconds)
        os.environ["DATABASE_URL"] = url
        run_server(settings, deadline)
    # Python would wait for threads that hang, such as in a read from a network disk.
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0)


async def _prepare(settings: Settings, engine: AsyncEngine) -> None:
    repository = DownloadsRepository(engine, settings.retention_days)
    days = await repository.published_days()
    holds_sample = any(day.source == IngestSource.SAMPLE for day in days)
    if settings.source is IngestSource.SAMPLE and (holds_sample or not days):
        # Also what is left of it when it was stopped before.
        await fill_with_samples(settings, engine)
        holds_sample = True
    if holds_sample:
        log.warning("the database holds SAMPLE data: the figures are made up")
    elif not days:
        log.warning(
            "the database is empty: each run of the ingest job adds up to %d days, "
            "`python -m app backfill` all of them",
            settings.ingest_max_days_per_run,
        )


@click.command(short_help="Bring the database's schema up to date.")
@with_settings
def migrate(settings: Settings) -> None:
    """Bring the database's schema up to date. All commands that change the database do it too."""
    with database_url(settings) as url:
        run(url, _nothing)


async def _nothing(_: AsyncEngine) -> None:
    pass


@click.command(short_help="Print the OpenAPI document.")
@with_settings
def openapi(settings: Settings) -> None:
    """Print the OpenAPI document, as JSON."""
    # As in `serve`.
    from app.main import create_app  # noqa: PLC0415

    app = create_app(settings, "postgresql:///unused")
    click.echo(json.dumps(app.openapi(), indent=2))
