"""Measures the ingest of a day of PyPI's size, and how much it slows down requests."""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from matplotlib.figure import Figure
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.engine import connect, job_engine
from app.db.partitions import partition_months
from app.db.repositories.ingest_repository import IngestRepository
from app.domain.clock import utc_now
from app.ingest.policy import policy_of
from app.ingest.retention import expire
from app.settings import Settings
from benchmarks.bigquery_server import PAGE_ROWS, prepare_pages
from benchmarks.command_line import (
    BenchmarkError,
    bench_dir,
    main,
    output_option,
    progress,
    results_folder,
)
from benchmarks.data import LAST_DAY, SEED, batches, days_before, package_name
from benchmarks.databases import (
    copy,
    copy_day,
    drop,
    fill_with_copies,
    in_autocommit,
    opened,
    postgres,
    url_of,
)
from benchmarks.load import Load, Measured, check_installed, loading, measure
from benchmarks.narrow_layout import STATEMENT_ROWS, insert_narrow_rows
from benchmarks.report import Report, Table, megabytes, verdict
from benchmarks.servers import free_port, running, service, wait_for

EARLIER_DAYS = 29

VERSION = 3
"""Version of the stored earlier days. Change it when they are generated differently."""

READERS = Load(connections=8, pause_ms=38)
"""Load of about 200 requests per second."""

WARM_UP_SECONDS = 5
"""Duration of a load before the measurement, in which the service opens its connections."""

READERS_BEFORE_SECONDS = 20
READ_PATHS = 50_000

FULL_PACKAGES = 700_000

LONGEST_SECONDS = 45
LEAST_COUNTS_PER_SECOND = 300_000
"""Minimum ingest rate: ten times that of the public service's code on such a machine, when idle."""

MOST_RSS_BYTES = 300e6
MOST_P99_RATIO = 2
LONGEST_RETENTION_SECONDS = 1

NARROW_PACKAGES = 20_000
"""Number of packages, the most popular ones, whose rows are inserted into narrow tables."""

NARROW_DATABASE = "ingest_narrow"

POLL_SECONDS = 0.005

SEGMENT_BYTES = 2**30
"""Maximum size of a file of Postgres."""

BLOCK_BYTES = 2**20
"""Number of bytes written at a time."""

_SIZE_OF_DAYS = (
    "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('daily_downloads')"
)
_SEEN_A_DAY_LATER = "UPDATE packages SET last_seen = last_seen + 1 WHERE last_seen = :day"

METHOD = (
    "A process of its own ingests a day of {packages:,} packages through Google's BigQuery client, "
    "from a local server that sends compressed pages of {page:,} rows, into a database with "
    "{earlier} earlier days. The time is measured from the first parsed page to the commit. Eight "
    "connections send about 200 requests per second for random packages, before and during the "
    "ingest. Afterwards retention drops the month while the same load continues. Its locks are "
    "released before Postgres has deleted the files; both times are measured. Category counts are "
    "the counts with and without mirrors, by python_minor and by system. As a measure of the "
    "machine's speed, plain INSERT statements of {statement} rows each fill empty tables with one "
    "row per date, package and category, before everything else."
)


@dataclass(frozen=True, slots=True)
class Ingested:
    packages: int
    category_counts: int
    seconds: float
    stages: Mapping[str, float]
    cpu_seconds: float
    peak_rss_bytes: int

    @property
    def counts_per_second(self) -> float:
        return self.category_counts / self.seconds


@dataclass(frozen=True, slots=True)
class Retention:
    seconds: float

    locked_seconds: float
    """Time until the locks are released: the month is invisible to readers, and another publish can
    start. After that Postgres deletes the month's files.
    """

    plain_deleting_seconds: float
    """Time for deleting as many bytes in ordinary files."""

    files_bytes: int
    dead_tuples: int
    """Number of dead tuples that retention left behind."""


@dataclass(frozen=True, slots=True)
class Result:
    ingested: Ingested
    plain_rows_per_second: float
    """Rate of plain inserts into narrow tables, as a measure of the machine's speed."""

    before: Measured
    during: Measured
    retention: Retention
    day_bytes: float
    """Size on disk of a day's rows and their index entries."""


def run(packages: int) -> Result:
    pages, counts = prepare_pages(packages, LAST_DAY)
    paths = _write_paths(packages)
    database = f"ingest_{packages}_run"
    with postgres() as server_url:
        template = asyncio.run(_earlier_days(server_url, packages))
        progress("inserting plain rows")
        plain = asyncio.run(_insert_plainly(server_url))
        progress("copying the database of the earlier days")
        asyncio.run(copy(server_url, database, template))
        url = url_of(server_url, database)
        try:
            with service(url) as server:
                readers = Load("/", {}, paths, READERS.connections, READERS.pause_ms)
                progress("measuring requests before the ingest")
                asked = measure(server, readers, WARM_UP_SECONDS).requests
                before = measure(server, readers, READERS_BEFORE_SECONDS, skip=asked)
                asked += before.requests
                progress("measuring requests during the ingest")
                with loading(server, readers, skip=asked) as load:
                    ingested = _ingest(url, pages, counts)
                    during = load.stop()
                asked += during.requests
                progress(f"published after {ingested.seconds:.1f} s; measuring retention")
                with loading(server, readers, skip=asked):
                    retention, day_bytes = asyncio.run(_retain(url))
        finally:
            asyncio.run(drop(server_url, database))
    return Result(ingested, plain, before, during, retention, day_bytes)


def _write_paths(packages: int) -> Path:
    choice = random.Random(SEED)
    paths = bench_dir() / "ingest.paths"
    with paths.open("w") as file:
        for _ in range(READ_PATHS):
            package = package_name(choice.randint(1, packages))
            endpoint = choice.choice(("recent", "overall", "python_minor"))
            file.write(f"/api/packages/{package}/{endpoint}\n")
    return paths


async def _earlier_days(server_url: str, packages: int) -> str:
    """Return the name of a database with the earlier days, which is created if it is missing."""
    database = f"ingest_{packages}_v{VERSION}"
    async with opened(server_url, database) as engine:
        days = days_before(LAST_DAY - timedelta(days=1), EARLIER_DAYS)
        await fill_with_copies(engine, packages, days)
    return database


def _ingest(url: str, pages: Path, counts: int) -> Ingested:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    settings = {name.upper(): "" for name in Settings.model_fields} | {
        "DATABASE_URL": url,
        "BIGQUERY_EMULATOR_HOST": address,
        # The synthetic data has only the required breakdowns.
        "INGEST_BREAKDOWNS": "none",
    }
    with (
        _source(pages, port),
        running(
            "ingest",
            [sys.executable, "-m", "benchmarks.ingest_process", LAST_DAY.isoformat()],
            **settings,
        ) as process,
    ):
        status = process.wait()
    output = (bench_dir() / "ingest.log").read_text().strip().splitlines()
    if status or not output:
        raise BenchmarkError(f"the ingest ended with status {status}: {''.join(output[-1:])}")
    return Ingested(category_counts=counts, **json.loads(output[-1]))


@contextmanager
def _source(pages: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.bigquery_server", str(pages), str(port)]
    with running("source", command) as process:
        wait_for("source", port, process)
        yield


async def _insert_plainly(server_url: str) -> float:
    """Return the rate of plain inserts in rows per second, in a database of its own."""
    packages = [row for batch in batches(NARROW_PACKAGES, LAST_DAY) for row in batch]
    await drop(server_url, NARROW_DATABASE)
    async with opened(server_url, NARROW_DATABASE) as engine:
        rate = await insert_narrow_rows(engine, LAST_DAY, packages)
    await drop(server_url, NARROW_DATABASE)
    return rate


async def _retain(url: str) -> tuple[Retention, float]:
    """Publish a day of the next month, then drop the month. Also return a day's size on disk."""
    async with job_engine(url) as engine:
        async with connect(engine) as connection:
            month_bytes = await _scalar(connection, _SIZE_OF_DAYS)
            await copy_day(connection, LAST_DAY, LAST_DAY + timedelta(days=1))
            await connection.execute(text(_SEEN_A_DAY_LATER), {"day": LAST_DAY})
            await connection.commit()
        await in_autocommit(engine, "VACUUM")
        before = await _dead_tuples(engine)
        policy = replace(policy_of(Settings()), retention_days=1, keep_months=0)
        began = time.perf_counter()
        others = asyncio.create_task(_wait_for_locks(engine))
        expired = await expire(engine, policy, utc_now())
        ended = time.perf_counter()
        went_on = await others
        if not expired.partitions:
            raise BenchmarkError("retention dropped no month")
        dead_tuples = await _dead_tuples(engine) - before
    retention = Retention(
        seconds=ended - began,
        # With small tables, retention may end before the released locks are noticed.
        locked_seconds=min(went_on, ended) - began,
        plain_deleting_seconds=_delete_plain_files(month_bytes),
        files_bytes=month_bytes,
        dead_tuples=dead_tuples,
    )
    return retention, month_bytes / (EARLIER_DAYS + 1)


async def _wait_for_locks(engine: AsyncEngine) -> float:
    """Wait until the month is dropped and a publish need not wait, and return the time."""
    async with connect(engine) as connection:
        while len(await partition_months(connection)) > 1:
            await connection.rollback()
            await asyncio.sleep(POLL_SECONDS)
        await IngestRepository(connection).lock_publish(LAST_DAY)
        return time.perf_counter()


def _delete_plain_files(size: int) -> float:
    """Return how long the system takes to delete these bytes, in files as large as Postgres's."""
    sizes = [SEGMENT_BYTES] * (size // SEGMENT_BYTES) + [size % SEGMENT_BYTES]
    with TemporaryDirectory(dir=bench_dir()) as folder:
        files = [Path(folder) / str(number) for number in range(len(sizes))]
        for path, bytes_ in zip(files, sizes, strict=True):
            with path.open("wb") as file:
                for _ in range(bytes_ // BLOCK_BYTES):
                    file.write(bytes(BLOCK_BYTES))
                os.fsync(file.fileno())
        began = time.perf_counter()
        for path in files:
            path.unlink()
        return time.perf_counter() - began


async def _dead_tuples(engine: AsyncEngine) -> int:
    # Postgres updates its statistics up to a second after a transaction.
    await asyncio.sleep(2)
    async with connect(engine) as connection:
        return await _scalar(connection, "SELECT sum(n_dead_tup) FROM pg_stat_user_tables")


async def _scalar(connection: AsyncConnection, query: str) -> int:
    return int(await connection.scalar(text(query)))


def report(result: Result) -> Report:
    ingested, before, during = result.ingested, result.before, result.during
    retention = result.retention
    tail = during.p99_ms / before.p99_ms
    outcome = [
        ["category counts", f"{ingested.category_counts:,}", ""],
        [
            "first page to commit",
            f"{ingested.seconds:.1f} s",
            verdict(ingested.seconds <= LONGEST_SECONDS, f"≤ {LONGEST_SECONDS} s"),
        ],
        [
            "category counts per second",
            f"{ingested.counts_per_second:,.0f}",
            verdict(
                ingested.counts_per_second >= LEAST_COUNTS_PER_SECOND,
                f"≥ {LEAST_COUNTS_PER_SECOND:,}",
            ),
        ],
        [
            "rows per second of plain inserts (speed of the machine)",
            f"{result.plain_rows_per_second:,.0f}",
            "",
        ],
        [
            "peak RSS of the ingesting process",
            megabytes(ingested.peak_rss_bytes),
            verdict(ingested.peak_rss_bytes <= MOST_RSS_BYTES, f"≤ {megabytes(MOST_RSS_BYTES)}"),
        ],
        ["CPU of the ingesting process", f"{ingested.cpu_seconds:.1f} s", ""],
        ["size of a day on disk", megabytes(result.day_bytes), ""],
        *(
            [
                f"readers {when}: requests/s, p50, p99",
                _read(measured),
                "",
            ]
            for when, measured in (("before", before), ("during", during))
        ),
        [
            "ratio of the readers' p99, during to before",
            f"{tail:.1f}",
            verdict(tail <= MOST_P99_RATIO, f"≤ {MOST_P99_RATIO}"),
        ],
        ["retention of a month", *_retention_verdict(retention.seconds)],
        [
            "retention of a month, until its locks are released",
            *_retention_verdict(retention.locked_seconds),
        ],
        [
            f"deletion of {megabytes(retention.files_bytes)} in ordinary files",
            f"{retention.plain_deleting_seconds:.2f} s",
            "",
        ],
        ["dead tuples left by retention", f"{retention.dead_tuples:,}", ""],
    ]
    stages = [
        [stage, f"{seconds:.1f}", f"{seconds / ingested.seconds:.0%}"]
        for stage, seconds in _largest(ingested)
    ]
    return Report(
        name="ingest",
        title="Ingest of a day",
        method=METHOD.format(
            packages=ingested.packages,
            page=PAGE_ROWS,
            earlier=EARLIER_DAYS,
            statement=STATEMENT_ROWS,
        ),
        tables=[
            Table("Outcome", ("what", "measured", "target"), outcome),
            Table("Stages", ("stage", "seconds", "share"), stages),
        ],
        figures=asdict(result),
        chart=_chart(ingested),
    )


def _retention_verdict(seconds: float) -> tuple[str, str]:
    judged = verdict(seconds <= LONGEST_RETENTION_SECONDS, f"≤ {LONGEST_RETENTION_SECONDS} s")
    return f"{seconds:.2f} s", judged


def _read(readers: Measured) -> str:
    rate = f"{readers.requests_per_second:,.0f}"
    return f"{rate}, {readers.p50_ms:.1f} ms, {readers.p99_ms:.1f} ms"


def _largest(ingested: Ingested) -> list[tuple[str, float]]:
    """Return the stages, longest first. Stages below a hundredth of the time are summed."""
    shown = [item for item in ingested.stages.items() if item[1] >= ingested.seconds / 100]
    shown.sort(key=lambda item: -item[1])
    left = sum(ingested.stages.values()) - sum(seconds for _, seconds in shown)
    return [*shown, ("shorter stages", left)]


def _chart(ingested: Ingested) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    stages = _largest(ingested)[::-1]
    bars = axes.barh([stage for stage, _ in stages], [seconds for _, seconds in stages])
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.margins(x=0.1)
    axes.set_title(
        f"A day of {ingested.packages:,} packages, {ingested.seconds:.1f} s: seconds by stage"
    )
    return figure


@click.command()
@click.option(
    "--packages", type=click.IntRange(min=1_000), default=FULL_PACKAGES, show_default=True
)
@output_option
def ingest(packages: int, output: Path | None) -> None:
    """Measure the ingest of a day, concurrent requests, and retention."""
    check_installed()
    report(run(packages)).save(results_folder(output))


if __name__ == "__main__":
    main(ingest)
