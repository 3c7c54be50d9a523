"""The command line: `python -m app`."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import date
from functools import partial, wraps
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

import click
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from app.breakdowns import OPTIONAL_BREAKDOWNS, columns_with
from app.db.advisory_lock import HeldLock
from app.db.downloads_repository import DownloadsRepository
from app.db.embedded import embedded_postgres
from app.db.engine import job_engine, wait_for_database
from app.db.migrations import migrate as migrate_database
from app.db.runs_repository import RunsRepository
from app.db.verification_repository import Difference
from app.dumps.bucket import ADDRESS, DumpBucket
from app.dumps.export import Exported, days_to_export, forget_dropped
from app.dumps.export import export as export_days
from app.dumps.folder import DumpFolder
from app.dumps.listing import DumpFormat
from app.dumps.store import DumpStore
from app.errors import DayNotPublishedError, StatsError
from app.ingest import pipeline, verification
from app.ingest.plan import cadence_of, days_to_backfill, days_to_seed
from app.ingest.plausibility import thresholds_of
from app.ingest.retention import expire as drop_expired
from app.ingest.runs import (
    Outcome,
    Run,
    ingest_lock,
    published_days,
    release,
    release_plausible,
)
from app.ingest.source import open_source
from app.interpreter import look_for_garbage_less_often
from app.logs import configure_logging
from app.reports import history_report, status_report
from app.settings import IngestSource, Settings, load_settings

log = logging.getLogger(__name__)

Result = TypeVar("Result")

Command = Callable[..., None]


class Day(click.ParamType[date]):
    """A UTC day."""

    name = "YYYY-MM-DD"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} should be a UTC day, YYYY-MM-DD.", param, ctx)


class Destination(click.Path):
    """A folder, or the address of a bucket."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | Path:
        if isinstance(value, str) and "://" in value:
            if not ADDRESS.fullmatch(value):
                # What is given may have a password in it.
                self.fail(
                    "should be a folder, s3://bucket/prefix or gs://bucket/prefix", param, ctx
                )
            return value
        return Path(os.fsdecode(super().convert(value, param, ctx)))


def _with_settings(command: Command) -> Command:
    """Hand the settings to a command that runs; asking for its help needs none."""

    @wraps(command)
    def run(**arguments: object) -> None:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        command(settings, **arguments)

    return run


_source = click.option(
    "--source",
    type=click.Choice(["bigquery", "file", "sample"]),
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
def cli() -> None:
    """Self-hosted PyPI download statistics.

    Settings are environment variables or lines of a .env file; the README lists them. Without
    DATABASE_URL, every command uses the embedded Postgres under DATA_DIR and starts it when needed.

    The exit status is 0 when all went well, 1 when something failed, 2 when an argument was wrong,
    and 130 after Ctrl-C; the reason is one line on standard error.
    """


@cli.command(short_help="Serve the API until stopped.")
@_with_settings
def serve(settings: Settings) -> None:
    """Migrate the database and serve the API until stopped.

    When the source of downloads is the sample, an empty database is filled with it first.
    """
    # Other commands start a third sooner without the server.
    from app.server import check_address, run_server  # noqa: PLC0415

    check_address(settings.host, settings.port)
    if settings.source is not IngestSource.NONE:
        # What is missing for the ingest job shows now, not at night.
        open_source(settings, settings.source)
    with _database_url(settings) as url:
        _run(url, partial(_prepare, settings), wait_seconds=settings.database_wait_seconds)
        os.environ["DATABASE_URL"] = url
        run_server(settings)


async def _prepare(settings: Settings, engine: AsyncEngine) -> None:
    repository = DownloadsRepository(engine, settings.retention_days)
    days = await repository.published_days()
    holds_sample = any(day.source == IngestSource.SAMPLE for day in days)
    if settings.source is IngestSource.SAMPLE and (holds_sample or not days):
        # Also what is left of it when it was stopped before.
        await _seed(settings, engine)
        holds_sample = True
    if holds_sample:
        log.warning("the database holds SAMPLE data: the figures are made up")
    elif not days:
        log.warning(
            "the database is empty: each run of the ingest job adds up to %d days, "
            "`python -m app backfill` all of them",
            settings.ingest_max_days_per_run,
        )


@cli.command(short_help="Bring the database's schema up to date.")
@_with_settings
def migrate(settings: Settings) -> None:
    """Bring the database's schema up to date. All commands that use the database do it too."""
    with _database_url(settings) as url:
        _run(url, _nothing)


async def _nothing(_: AsyncEngine) -> None:
    pass


@cli.command(short_help="Publish one day.")
@click.option("--date", "day", type=Day(), help="UTC day. Default: the latest complete one.")
@_source
@_replace_sample
@click.option(
    "--force",
    is_flag=True,
    help="Publish it even when it does not look plausible: what is held of it, or else what the "
    "source gives.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only print what the query would bill and what that costs, also of each breakdown that "
    "INGEST_BREAKDOWNS may name.",
)
@_with_settings
def ingest(
    settings: Settings,
    *,
    day: date | None,
    source: str | None,
    replace_sample: bool,
    force: bool,
    dry_run: bool,
) -> None:
    """Publish one day, in place of what was published for it before.

    A day that does not look plausible is held instead: kept, and not served.

    Example: python -m app ingest --date 2026-11-20
    """
    day = day or pipeline.latest_complete_day()
    kind = IngestSource(source or settings.source)
    pipeline.check_counted(day)
    if dry_run:
        click.echo(_cost(settings, kind, day))
        return

    async def work(engine: AsyncEngine) -> None:
        async with ingest_lock(engine) as lock:
            thresholds = thresholds_of(settings)
            if force:
                released = await release(
                    engine,
                    lock,
                    day,
                    retention_days=settings.retention_days,
                    thresholds=thresholds,
                    force=True,
                    replace_sample=replace_sample,
                )
                if released:
                    click.echo(str(released))
                    return
            run = Run(
                engine,
                open_source(settings, kind),
                lock,
                retention_days=settings.retention_days,
                thresholds=thresholds,
                force=force,
                replace_sample=replace_sample,
            )
            click.echo(str(await run.ingest_day(day)))
            await _release_plausible(settings, engine, lock)

    if not force:
        # What is missing shows before a database is started.
        open_source(settings, kind)
    with _database_url(settings) as url:
        _run(url, work)


async def _release_plausible(settings: Settings, engine: AsyncEngine, lock: HeldLock) -> None:
    async for published in release_plausible(
        engine, lock, retention_days=settings.retention_days, thresholds=thresholds_of(settings)
    ):
        click.echo(f"{published}, which was held", err=True)


def _cost(settings: Settings, kind: IngestSource, day: date) -> str:
    if kind is not IngestSource.BIGQUERY:
        # What is missing shows here as it would without --dry-run.
        open_source(settings, kind)
        return f"{day}: {kind} data bills nothing"
    # Slow to import, as `open_source` tells.
    from app.ingest.bigquery import USD_PER_TIB_BILLED, cost_usd, create_source  # noqa: PLC0415

    source = create_source(settings)
    billed = source.bytes_billed(day)
    least = source.bytes_billed(day, ())
    ingested = settings.breakdowns_of(kind)
    # Bytes are billed by column, so that each adds the same whichever others there are.
    added = {
        f"{one.name}{', ingested' if one in ingested else ''}": source.bytes_billed(day, (one,))
        - least
        for one in OPTIONAL_BREAKDOWNS
    }
    lines = [
        f"  {name:<26} {count:>18,} bytes  {cost_usd(count):>7.3f} USD"
        for name, count in {"all else": least, **added}.items()
    ]
    return (
        f"{day}: {billed:,} bytes ({billed / 2**30:.1f} GiB) would be billed, "
        f"{cost_usd(billed):.2f} USD at {USD_PER_TIB_BILLED} USD a TiB "
        "beyond the first of each month; "
        f"BIGQUERY_MAX_BYTES_BILLED allows {settings.bigquery_max_bytes_billed:,} bytes\n"
        "of INGEST_BREAKDOWNS, each adds to what all else is billed:\n"
    ) + "\n".join(lines)


@cli.command(short_help="Publish the days that are missing.")
@click.option(
    "--start", type=Day(), help="First UTC day. Default: the first of RETENTION_DAYS to --end."
)
@click.option("--end", type=Day(), help="Last UTC day. Default: the latest complete one.")
@click.option("--force", is_flag=True, help="Also days that are published already.")
@_source
@_replace_sample
@_with_settings
def backfill(
    settings: Settings,
    *,
    start: date | None,
    end: date | None,
    force: bool,
    source: str | None,
    replace_sample: bool,
) -> None:
    """Publish the days from --start to --end that are missing, latest first.

    A day that fails does not keep the others from being published, and makes the exit status 1.
    Stopped at any point, the same command goes on where it was.

    Example: python -m app backfill --start 2026-11-01 --end 2026-11-20
    """
    end = end or pipeline.latest_complete_day()
    if start and start > end:
        raise click.BadParameter(f"{start} is after --end {end}.", param_hint="--start")
    opened = open_source(settings, IngestSource(source or settings.source))

    async def work(engine: AsyncEngine) -> bool:
        async with ingest_lock(engine) as lock:
            days = days_to_backfill(
                await published_days(engine),
                start,
                end,
                retention_days=settings.retention_days,
                again=force,
                replace_sample=replace_sample,
            )
            run = Run(
                engine,
                opened,
                lock,
                retention_days=settings.retention_days,
                thresholds=thresholds_of(settings),
                replace_sample=replace_sample,
            )
            all_published = await _report(run.ingest(days), days)
            await _release_plausible(settings, engine, lock)
            return all_published

    with _database_url(settings) as url:
        if not _run(url, work):
            sys.exit(1)


async def _report(outcomes: AsyncIterator[Outcome], days: Sequence[date]) -> bool:
    """Show each outcome as it comes and a summary in the end; True when no day failed."""
    published = 0
    failed: list[date] = []
    try:
        with _progress(days) as progress:
            async for outcome in outcomes:
                if outcome.error:
                    failed.append(outcome.day)
                else:
                    published += 1
                # The bar tells of what went well.
                if progress.disable or outcome.error:
                    progress.write(str(outcome), file=sys.stderr)
                progress.update()
    finally:
        left = len(days) - published - len(failed)
        click.echo(
            f"{published} of {len(days)} missing days published, {len(failed)} failed"
            + (f" ({', '.join(map(str, sorted(failed)))})" if failed else "")
            + (f", {left} not tried" if left else "")
        )
    return not failed


@contextmanager
def _progress(days: Sequence[date]) -> Iterator["tqdm[NoReturn]"]:
    """A progress bar in a terminal, disabled elsewhere."""
    interactive = sys.stderr.isatty()
    # No thread that watches bars for the rest of the process's life, which may be the service's.
    tqdm.monitor_interval = 0
    with (
        logging_redirect_tqdm() if interactive else nullcontext(),
        tqdm(total=len(days), unit="day", disable=not interactive) as progress,
    ):
        yield progress


@cli.command(short_help="Drop what left the days served.")
@_with_settings
def expire(settings: Settings) -> None:
    """Drop the months that lie wholly outside the days served, and packages without downloads."""
    work = partial(drop_expired, retention_days=settings.retention_days)
    with _database_url(settings) as url:
        click.echo(str(_run(url, work)))


@cli.command(short_help="Fill the database with sample data.")
@_with_settings
def seed(settings: Settings) -> None:
    """Fill the days served with sample data. Refused where the database holds real data."""
    with _database_url(settings) as url:
        _run(url, partial(_seed, settings))


async def _seed(settings: Settings, engine: AsyncEngine) -> None:
    retention_days = settings.retention_days
    source = open_source(settings, IngestSource.SAMPLE)
    async with ingest_lock(engine) as lock:
        days = days_to_seed(
            await published_days(engine),
            retention_days=retention_days,
            columns=columns_with(settings.breakdowns_of(IngestSource.SAMPLE)),
        )
        if days:
            log.info("making %d days of sample data", len(days))
        # Made up as they are, these days have nothing to be judged for.
        run = Run(engine, source, lock, retention_days=retention_days, thresholds=None)
        with _progress(days) as progress:
            for day in days:
                await run.ingest_day(day)
                progress.update()


@cli.command(short_help="Show what the database holds.")
@_with_settings
def status(settings: Settings) -> None:
    """Show what the database holds."""

    async def work(engine: AsyncEngine) -> None:
        repository = DownloadsRepository(engine, settings.retention_days)
        report = status_report(
            cadence_of(settings),
            ingests=settings.source is not IngestSource.NONE,
            days=await repository.published_days(),
            held=await repository.held_days(),
            last_run=next(iter(await RunsRepository(engine).latest(1)), None),
            size=await repository.size(),
        )
        click.echo(report)

    with _database_url(settings) as url:
        _run(url, work)


@cli.command(short_help="Show the last ingests.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="How many to show, latest first.",
)
@_with_settings
def history(settings: Settings, *, limit: int) -> None:
    """Show the last ingests: when each began, how long it took, what it cost, what came of it."""

    async def work(engine: AsyncEngine) -> None:
        click.echo(history_report(await RunsRepository(engine).latest(limit)))

    with _database_url(settings) as url:
        _run(url, work)


@cli.command(short_help="Compare what is published with the stored rows.")
@click.option(
    "--date", "day", type=Day(), help="UTC day. Default: all that are published, and the packages."
)
@_with_settings
def verify(settings: Settings, *, day: date | None) -> None:
    """Compare what is published with the stored rows, and say what differs.

    Of each day its digest and totals, and the figures of __all__; without --date also those of the
    packages, and whether rows are left over. A difference is one line and makes the exit status 1.

    Example: python -m app verify --date 2026-11-20
    """

    async def work(engine: AsyncEngine) -> bool:
        days = await verification.days_to_verify(engine, day)
        steps = verification.verify(engine, days, packages=day is None)
        return await _report_differences(steps, days)

    with _database_url(settings) as url:
        if not _run(url, work):
            sys.exit(1)


async def _report_differences(
    steps: AsyncIterator[verification.Verified], days: Sequence[date]
) -> bool:
    """Show what differs as it is found and a summary in the end; True when nothing does."""
    verified = 0
    differences: list[Difference] = []
    with _progress(days) as progress:
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
        found = "all as published" if verified else "nothing is published"
    click.echo(f"{verified} days verified: {found}")
    return not differences


@cli.command(short_help="Write published days to files.")
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
@_with_settings
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

    with _database_url(settings) as url:
        _run(url, work)


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
        with _progress(days) as progress:
            async for one in exported:
                written += one.is_new
                unchanged += not one.is_new
                # The bar tells of what went well.
                if progress.disable and one.is_new:
                    progress.write(str(one), file=sys.stderr)
                progress.update()
    finally:
        click.echo(f"{written} of {len(days)} days written to {store}, {unchanged} unchanged")


@cli.command(short_help="Print the OpenAPI document.")
@_with_settings
def openapi(settings: Settings) -> None:
    """Print the OpenAPI document, as JSON."""
    # As in `serve`.
    from app.main import create_app  # noqa: PLC0415

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


def _run(
    url: str,
    work: Callable[[AsyncEngine], Coroutine[object, object, Result]],
    *,
    wait_seconds: float = 0.0,
) -> Result:
    """Run the work on a migrated database, once that can be reached."""
    signals: list[int] = []

    async def run() -> Result:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task

        def stop() -> None:
            signals.append(signal.SIGTERM)
            task.cancel()

        # An exception out of a signal's handler may come up where nobody passes it on.
        loop.add_signal_handler(signal.SIGTERM, stop)
        look_for_garbage_less_often()
        async with job_engine(url) as engine:
            await wait_for_database(engine, wait_seconds)
            await migrate_database(engine)
            return await work(engine)

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        sys.exit(128 + signals[0])
    finally:
        signal.signal(signal.SIGTERM, _stop)


def main() -> NoReturn:
    """Run the command line; an error is one line and an exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _stop)
    # A terminal that was closed is no reason to stop in another way, and under nohup none to stop.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "python -m app"
        _fail(f"{error.format_message()} ({path} --help)", error.exit_code)
    except StatsError as error:
        _fail(str(error), 1)
    except DBAPIError as error:
        _fail(f"the database refused: {error.orig}", 1)
    except Exception as error:
        if log.isEnabledFor(logging.DEBUG):
            raise
        _fail(f"{type(error).__name__}: {error} (LOG_LEVEL=debug shows where)", 1)
    sys.exit(status)


def _stop(number: int, _: FrameType | None) -> None:
    # Unlike the default, this lets everything that was started be stopped.
    sys.exit(128 + number)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(status)
