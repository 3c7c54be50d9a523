"""Databases of synthetic days, in one embedded Postgres that is reused between runs."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import date

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.embedded import embedded_postgres
from app.db.engine import connect, job_engine
from app.db.migrations import migrate
from app.db.package_figures import update_figures
from app.db.partitions import ensure_partition
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.ingest_repository import IngestRepository
from app.db.tables import ingested_days
from app.domain.clock import utc_now
from app.ingest.pipeline import read_and_publish
from app.ingest.policy import policy_of
from app.ingest.publish import PublishContext
from app.settings import Settings
from benchmarks.command_line import bench_dir, progress
from benchmarks.data import LAST_DAY, SyntheticSource, days_before

SERVED_DAYS = 180

# Rows are copied within the service's tables, because its pipeline would take many times as long.
_TAKE_ROWS = (
    "CREATE TEMPORARY TABLE copied ON COMMIT DROP AS "
    "SELECT package_id, with_mirrors, without_mirrors, python_minor, system "
    "FROM daily_downloads WHERE date = :source ORDER BY package_id"
)
_COPY_ROWS = (
    "INSERT INTO daily_downloads "
    "(package_id, date, with_mirrors, without_mirrors, python_minor, system) "
    "SELECT package_id, CAST(:day AS date), with_mirrors, without_mirrors, python_minor, system "
    "FROM copied"
)
_RECORDED = ", ".join(column.name for column in ingested_days.c if column.name != "day")
_COPY_RECORD = (
    f"INSERT INTO ingested_days (day, {_RECORDED}) "
    f"SELECT CAST(:day AS date), {_RECORDED} FROM ingested_days WHERE day = :source"
)


@contextmanager
def postgres() -> Iterator[str]:
    """Run the server, and yield its URL."""
    with embedded_postgres(bench_dir()) as url:
        yield url


def url_of(server_url: str, database: str) -> str:
    return make_url(server_url).set(database=database).render_as_string(hide_password=False)


@asynccontextmanager
async def opened(server_url: str, database: str) -> AsyncIterator[AsyncEngine]:
    """Yield an engine for a migrated database, which is created if it does not exist."""
    if not await exists(server_url, database):
        await _administrate(server_url, f"CREATE DATABASE {database}")
    async with job_engine(url_of(server_url, database)) as engine:
        await migrate(engine)
        yield engine


async def exists(server_url: str, database: str) -> bool:
    async with job_engine(server_url) as engine, connect(engine) as connection:
        query = text("SELECT count(*) FROM pg_database WHERE datname = :name")
        return bool(await connection.scalar(query, {"name": database}))


async def drop(server_url: str, database: str) -> None:
    await _administrate(server_url, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")


async def copy(server_url: str, database: str, template: str) -> None:
    await drop(server_url, database)
    await _administrate(
        server_url, f"CREATE DATABASE {database} TEMPLATE {template} STRATEGY file_copy"
    )
    await _administrate(server_url, "CHECKPOINT")


async def _administrate(server_url: str, statement: str) -> None:
    async with job_engine(server_url) as engine:
        await in_autocommit(engine, statement)


async def in_autocommit(engine: AsyncEngine, *statements: str) -> None:
    """Run statements that can't run in a transaction, such as VACUUM and CREATE DATABASE."""
    async with connect(engine) as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            await connection.execute(text(statement))


async def served_database(server_url: str, packages: int) -> str:
    """Return the URL of a database with a full window of this many packages. Missing days are
    added.
    """
    database = f"served_{packages}"
    async with opened(server_url, database) as engine:
        if await fill(engine, packages, days_before(LAST_DAY, SERVED_DAYS)):
            await in_autocommit(engine, "VACUUM ANALYZE", "CHECKPOINT")
    return url_of(server_url, database)


FORCED = replace(policy_of(Settings()), retention_days=SERVED_DAYS, force=True)
"""Policy that publishes every day without checks."""


async def fill(
    engine: AsyncEngine, packages: int, days: list[date], *, installers: bool = False
) -> int:
    """Publish the days that are missing, and return their number.

    The latest day comes first, because few of the others then change the figures of packages.
    """
    held = {day.day for day in await DownloadsRepository(engine, SERVED_DAYS).published_days()}
    missing = [day for day in days if day not in held]
    source = SyntheticSource(packages, installers=installers)
    for number, day in enumerate(reversed(missing)):
        if number % 30 == 0:
            progress(f"publishing {packages:,} packages: {len(missing) - number} days to go")
        await read_and_publish(PublishContext(engine, FORCED, utc_now), source, day)
    return len(missing)


async def fill_with_copies(engine: AsyncEngine, packages: int, days: list[date]) -> None:
    """Publish the days that are missing with the rows of a published day, which are as many and as
    large as their own. If no day is published, the first one goes through the pipeline.
    """
    held = [day.day for day in await DownloadsRepository(engine, SERVED_DAYS).published_days()]
    if not held:
        progress(f"publishing {packages:,} packages: the first day")
        source = SyntheticSource(packages)
        await read_and_publish(PublishContext(engine, FORCED, utc_now), source, days[0])
        held = [days[0]]
    missing = [day for day in days if day not in held]
    if missing:
        progress(f"publishing {packages:,} packages: {len(missing)} more days, with the same rows")
    # Each day has a transaction of its own, so that the next run continues if this one is stopped.
    for day in missing:
        async with connect(engine) as connection:
            await copy_day(connection, held[0], day)
            if day == missing[-1]:
                await update_figures(connection, max(*missing, *held), is_next=False)
            await connection.commit()
        # The server would do this by itself within a minute.
        await in_autocommit(engine, "VACUUM daily_downloads")
    await in_autocommit(engine, "VACUUM ANALYZE", "CHECKPOINT")


async def copy_day(connection: AsyncConnection, source: date, day: date) -> None:
    """Publish a day with the rows of another, in the caller's transaction. The figures of packages
    are not updated.
    """
    await IngestRepository(connection).lock_publish(day)
    await ensure_partition(connection, day)
    await connection.execute(text(_TAKE_ROWS), {"source": source})
    await connection.execute(text(_COPY_ROWS), {"day": day})
    await connection.execute(text(_COPY_RECORD), {"source": source, "day": day})
