"""The command line: `python -m app`."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, date, datetime
from functools import partial
from types import FrameType
from typing import NoReturn, TypeVar

import click
import uvicorn
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from app.db.downloads_repository import DownloadsRepository
from app.db.embedded import embedded_postgres
from app.db.engine import job_engine
from app.db.migrations import migrate as migrate_database
from app.downloads import gaps
from app.errors import SettingsError, StatsError
from app.ingest import pipeline
from app.ingest.source import open_source
from app.logs import configure_logging
from app.main import create_app
from app.settings import IngestSource, Settings, load_settings

Result = TypeVar("Result")

_day = click.DateTime(formats=["%Y-%m-%d"])

_source = click.option(
    "--source",
    type=click.Choice([IngestSource.BIGQUERY.value, IngestSource.SAMPLE.value]),
    help="Where the downloads come from. Default: INGEST_SOURCE.",
)
_replace_sample = click.option(
    "--replace-sample",
    is_flag=True,
    help="Delete the sample data that the database holds in the moment real data is published.",
)


@click.group(
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Self-hosted PyPI download statistics.

    Settings are environment variables or lines of a .env file; the README lists them. Without
    DATABASE_URL, every command uses the embedded Postgres under DATA_DIR and starts it when needed.
    """
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    context.obj = settings


@cli.command()
@click.pass_obj
def serve(settings: Settings) -> None:
    """Migrate the database and serve the API until stopped.

    When the source of downloads is the sample, an empty database is filled with it first.
    """
    _check_address(settings.host, settings.port)
    if settings.source is not IngestSource.SAMPLE:
        # What is missing for the daily job shows now, not at night.
        open_source(settings, settings.source)
    with _database_url(settings) as url:
        _run(url, partial(_prepare, settings))
        # The server processes read their settings from the environment.
        os.environ["DATABASE_URL"] = url
        uvicorn.run(
            "app.main:create_app_from_environment",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            log_config=None,
            proxy_headers=False,
            server_header=False,
        )


def _check_address(host: str, port: int) -> None:
    """Raise before anything is started when the address can't be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise SettingsError(
            f"HOST={host} PORT={port}: should be an address that is free to listen on: "
            f"{error.strerror}"
        ) from error


async def _prepare(settings: Settings, engine: AsyncEngine) -> None:
    repository = DownloadsRepository(engine, settings.retention_days)
    days = await repository.published_days()
    holds_sample = any(day.source == IngestSource.SAMPLE for day in days)
    if settings.source is IngestSource.SAMPLE and (holds_sample or not days):
        # Also what is left of it when it was stopped before.
        await _seed(settings, engine)
        holds_sample = True
    if holds_sample:
        click.echo("The database holds SAMPLE data: the figures are made up.")
    elif not days:
        click.echo("The database is empty: `python -m app backfill` fetches past days.")


@cli.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Bring the database's schema up to date. The other commands do it too."""
    with _database_url(settings) as url:
        _run(url, _nothing)


async def _nothing(_: AsyncEngine) -> None:
    pass


@cli.command()
@click.option(
    "--date", "day", type=_day, help="UTC day, YYYY-MM-DD. Default: the latest complete one."
)
@_source
@_replace_sample
@click.option(
    "--dry-run", is_flag=True, help="Only print what the query would bill and what that costs."
)
@click.pass_obj
def ingest(
    settings: Settings,
    day: datetime | None,
    source: str | None,
    replace_sample: bool,
    dry_run: bool,
) -> None:
    """Publish one day, in place of what was published for it before."""
    the_day = day.date() if day else pipeline.latest_complete_day()
    kind = IngestSource(source or settings.source)
    if dry_run:
        _print_cost(settings, kind, the_day)
        return
    opened = open_source(settings, kind)

    async def work(engine: AsyncEngine) -> None:
        published = await pipeline.ingest_day(
            engine,
            opened,
            the_day,
            retention_days=settings.retention_days,
            replace_sample=replace_sample,
        )
        click.echo(str(published))

    with _database_url(settings) as url:
        _run(url, work)


def _print_cost(settings: Settings, kind: IngestSource, day: date) -> None:
    if kind is IngestSource.SAMPLE:
        click.echo(f"{day}: sample data bills nothing")
        return
    from app.ingest.bigquery import USD_PER_TIB_BILLED, create_source  # noqa: PLC0415 - it is slow

    billed = create_source(settings).bytes_billed(day)
    cost = billed / 2**40 * USD_PER_TIB_BILLED
    click.echo(
        f"{day}: {billed:,} bytes ({billed / 2**30:.1f} GiB) would be billed, {cost:.2f} USD at "
        f"{USD_PER_TIB_BILLED} USD a TiB beyond the first TiB of each month; "
        f"BIGQUERY_MAX_BYTES_BILLED allows {settings.bigquery_max_bytes_billed:,} bytes"
    )


@cli.command()
@click.option("--start", type=_day, required=True, help="First UTC day, YYYY-MM-DD.")
@click.option(
    "--end", type=_day, help="Last UTC day, YYYY-MM-DD. Default: the latest complete one."
)
@click.option("--force", is_flag=True, help="Also days that are published already.")
@_source
@_replace_sample
@click.pass_obj
def backfill(
    settings: Settings,
    start: datetime,
    end: datetime | None,
    force: bool,
    source: str | None,
    replace_sample: bool,
) -> None:
    """Publish the days from --start to --end that are missing, latest first.

    A day that fails does not keep the others from being published, and makes the exit status 1.
    Stopped at any point, the same command goes on where it was.
    """
    first = start.date()
    last = end.date() if end else pipeline.latest_complete_day()
    if first > last:
        raise click.BadParameter(f"{first} is after --end {last}", param_hint="--start")
    opened = open_source(settings, IngestSource(source or settings.source))

    async def work(engine: AsyncEngine) -> int:
        days = await pipeline.days_to_backfill(
            engine,
            first,
            last,
            retention_days=settings.retention_days,
            force=force,
            replace_sample=replace_sample,
        )
        already = (last - first).days + 1 - len(days)
        published = 0
        failed: list[date] = []
        try:
            with _progress(days) as progress:
                async for outcome in pipeline.backfill(
                    engine,
                    opened,
                    days,
                    retention_days=settings.retention_days,
                    replace_sample=replace_sample,
                ):
                    published += outcome.failure is None
                    failed += [outcome.day] if outcome.failure else []
                    progress.update()
        finally:
            left = len(days) - published - len(failed)
            click.echo(
                f"{published} published, {len(failed)} failed, {already} already there"
                + (f", {left} not tried" if left else "")
                + (f"; failed: {', '.join(map(str, sorted(failed)))}" if failed else "")
            )
        return len(failed)

    with _database_url(settings) as url:
        if _run(url, work):
            sys.exit(1)


@contextmanager
def _progress(days: Sequence[date]) -> Iterator["tqdm[NoReturn]"]:
    """A progress bar in a terminal; elsewhere nothing, since each day has its log line."""
    interactive = sys.stderr.isatty()
    with (
        logging_redirect_tqdm() if interactive else nullcontext(),
        tqdm(total=len(days), unit="day", disable=not interactive) as progress,
    ):
        yield progress


@cli.command()
@click.pass_obj
def expire(settings: Settings) -> None:
    """Drop the months that lie wholly outside the days served, and packages without downloads."""
    with _database_url(settings) as url:
        _run(url, partial(pipeline.expire, retention_days=settings.retention_days))


@cli.command()
@click.pass_obj
def seed(settings: Settings) -> None:
    """Fill the days served with sample data. Refused where the database holds real data."""
    with _database_url(settings) as url:
        _run(url, partial(_seed, settings))


async def _seed(settings: Settings, engine: AsyncEngine) -> None:
    days = await pipeline.days_to_seed(engine, retention_days=settings.retention_days)
    if days:
        click.echo(f"Making {len(days)} days of sample data.")
    with _progress(days) as progress:
        async for _ in pipeline.seed(engine, days, retention_days=settings.retention_days):
            progress.update()


@cli.command()
@click.pass_obj
def status(settings: Settings) -> None:
    """Show what the database holds."""

    async def work(engine: AsyncEngine) -> None:
        repository = DownloadsRepository(engine, settings.retention_days)
        days = await repository.published_days()
        held = await repository.held()
        missing = gaps(days)
        sources = sorted({day.source for day in days})
        rows = {
            "days": f"{len(days)} of {settings.retention_days}",
            "first": str(days[0].day) if days else "none",
            "latest": str(days[-1].day) if days else "none",
            "published": f"{days[-1].published_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            if days
            else "never",
            "gaps": ", ".join(map(str, missing)) or "none",
            "source": ", ".join(sources) or "none",
            "packages": f"{held.packages:,}",
            "size": f"{held.size_bytes / 2**20:,.1f} MiB",
        }
        for name, value in rows.items():
            click.echo(f"{name:<10} {value}")

    with _database_url(settings) as url:
        _run(url, work)


@cli.command()
@click.pass_obj
def openapi(settings: Settings) -> None:
    """Print the OpenAPI document, as JSON."""
    app = create_app(settings, "postgresql:///unused")
    click.echo(json.dumps(app.openapi(), indent=2))


@contextmanager
def _database_url(settings: Settings) -> Iterator[str]:
    """The database that the settings name, or an embedded one for as long as this lasts."""
    if settings.database_url:
        yield settings.database_url.get_secret_value()
    else:
        with embedded_postgres(settings.data_dir) as url:
            yield url


def _run(url: str, work: Callable[[AsyncEngine], Coroutine[object, object, Result]]) -> Result:
    """Run the work on a migrated database."""

    async def run() -> Result:
        async with job_engine(url) as engine:
            await migrate_database(engine)
            return await work(engine)

    return asyncio.run(run())


def main() -> NoReturn:
    """Run the command line; an error is one line and an exit status."""
    signal.signal(signal.SIGTERM, _stop)
    # A terminal that was closed is no reason to stop in another way.
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        _fail("stopped", 130)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "python -m app"
        _fail(f"{error.format_message()} ({path} --help)", error.exit_code)
    except StatsError as error:
        _fail(str(error), 1)
    except DBAPIError as error:
        _fail(f"the database refused: {error.orig}", 1)
    except Exception as error:
        if os.environ.get("LOG_LEVEL") == "debug":
            raise
        _fail(f"{type(error).__name__}: {error} (LOG_LEVEL=debug shows where)", 1)
    sys.exit(status)


def _stop(number: int, _: FrameType | None) -> None:
    # Unlike the default, this lets everything that was started be stopped.
    sys.exit(128 + number)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(status)
