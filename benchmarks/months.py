"""Measures the roll-up of a month of PyPI's size, and how stored months grow."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import click
import psutil
from matplotlib.figure import Figure
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect, job_engine
from app.db.tables import monthly_downloads
from app.domain.clock import utc_now
from app.domain.months import days_of_month, following_month, month_of
from app.ingest.publish import PublishContext
from app.ingest.rollup import months_of, roll_up
from app.ingest.runs import published_days
from benchmarks.command_line import (
    BenchmarkError,
    bench_dir,
    main,
    output_option,
    progress,
    results_folder,
)
from benchmarks.data import HEAD_PACKAGES, LAST_DAY, SEED, package_name
from benchmarks.databases import (
    FORCED,
    copy,
    drop,
    fill,
    in_autocommit,
    opened,
    postgres,
    url_of,
)
from benchmarks.load import Load, Measured, check_installed, loading, measure
from benchmarks.report import Report, Table, megabytes, verdict
from benchmarks.servers import service

FULL_PACKAGES = 700_000

MONTH = month_of(LAST_DAY)

MONTHS_PER_YEAR = 12

READERS = Load(connections=8, pause_ms=38)
"""Load of about 200 requests per second."""

READERS_BEFORE_SECONDS = 20
READ_PATHS = 50_000

POLL_SECONDS = 0.005

LONGEST_SECONDS = 90
MOST_P99_RATIO = 2
LONGEST_LOCK_SECONDS = 0.2
MOST_BYTES_PER_YEAR = 1.5e9

# A statement that waits for a lock is a reader, because nothing else is running.
_LOCK_WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted"

_COLUMNS = ", ".join(column.name for column in monthly_downloads.c[2:])
_COPY_MONTH = (
    f"INSERT INTO monthly_downloads (package_id, month, {_COLUMNS}) "
    f"SELECT package_id, CAST(:month AS date), {_COLUMNS} FROM monthly_downloads "
    "WHERE month = :source ORDER BY package_id"
)
_SIZE = "SELECT pg_total_relation_size('monthly_downloads')"

METHOD = (
    "A process rolls up a month of {days} days of {packages:,} packages, with breakdowns by Python "
    "version, system and installer, while another process serves the same database. Eight "
    "connections send about 200 requests per second for random packages, before and during the "
    "roll-up. A lock wait is the longest time in which any statement waited for a lock. Afterwards "
    "the month's rows are copied to the {others} following months, and the size of the table with "
    "its indexes is measured after each. The size of a year is extrapolated to {full:,} packages. "
    "With fewer packages it is too high, because the {head:,} most downloaded have larger rows."
)


@dataclass(frozen=True, slots=True)
class Result:
    packages: int
    rows: int
    seconds: float
    cpu_seconds: float
    lock_seconds: float
    before: Measured
    during: Measured
    sizes: Sequence[int]
    """Bytes of one month, two months, and so on."""

    @property
    def bytes_per_row(self) -> float:
        return self.sizes[-1] / (self.rows * MONTHS_PER_YEAR)


def run(packages: int) -> Result:
    paths = _write_paths(packages)
    database = f"months_{packages}_run"
    with postgres() as server_url:
        template = asyncio.run(_days(server_url, packages))
        progress("copying the database of the days")
        asyncio.run(copy(server_url, database, template))
        url = url_of(server_url, database)
        try:
            with service(url) as server:
                readers = Load("/", {}, paths, READERS.connections, READERS.pause_ms)
                progress("measuring requests before the roll-up")
                before = measure(server, readers, READERS_BEFORE_SECONDS)
                progress("measuring requests during the roll-up")
                with loading(server, readers, skip=before.requests) as load:
                    rows, seconds, cpu_seconds, lock_seconds = asyncio.run(_roll_up(url))
                    during = load.stop()
            progress(f"rolled up after {seconds:.1f} s; measuring the sizes of months")
            sizes = asyncio.run(_grow(url))
        finally:
            asyncio.run(drop(server_url, database))
    return Result(packages, rows, seconds, cpu_seconds, lock_seconds, before, during, sizes)


def _write_paths(packages: int) -> Path:
    choice = random.Random(SEED)
    paths = bench_dir() / "months.paths"
    with paths.open("w") as file:
        for _ in range(READ_PATHS):
            package = package_name(choice.randint(1, packages))
            endpoint = choice.choice(("recent", "overall", "python_minor"))
            file.write(f"/api/packages/{package}/{endpoint}\n")
    return paths


async def _days(server_url: str, packages: int) -> str:
    """Return the name of a database with the days of the month, which is created if missing."""
    database = f"months_{packages}"
    async with opened(server_url, database) as engine:
        if await fill(engine, packages, days_of_month(MONTH), installers=True):
            await in_autocommit(engine, "VACUUM ANALYZE", "CHECKPOINT")
    return database


async def _roll_up(url: str) -> tuple[int, float, float, float]:
    """Return the number of rows, the time, this process's CPU time, and the longest lock wait."""
    async with job_engine(url) as engine, job_engine(url) as other:
        (month,) = months_of(await published_days(engine))
        waits = LockWaits()
        watching = asyncio.create_task(waits.watch(other))
        began, cpu = time.perf_counter(), psutil.Process().cpu_times().user
        record = await roll_up(PublishContext(engine, FORCED, utc_now), month)
        seconds, cpu = time.perf_counter() - began, psutil.Process().cpu_times().user - cpu
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        if record is None:
            raise BenchmarkError("a day changed during the roll-up")
        return record.packages + 1, seconds, cpu, waits.longest_seconds


@dataclass
class LockWaits:
    longest_seconds: float = 0.0

    async def watch(self, engine: AsyncEngine) -> None:
        """Look for waits until this is cancelled."""
        since: float | None = None
        async with connect(engine) as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            while True:
                waits = await connection.scalar(text(_LOCK_WAITS))
                now = time.perf_counter()
                since = (since or now) if waits else None
                self.longest_seconds = max(self.longest_seconds, now - (since or now))
                await asyncio.sleep(POLL_SECONDS)


async def _grow(url: str) -> list[int]:
    """Store a year of months, and return the size after each."""
    sizes = []
    async with job_engine(url) as engine:
        month: date = MONTH
        for number in range(MONTHS_PER_YEAR):
            async with connect(engine) as connection:
                if number:
                    month = following_month(month)
                    await connection.execute(text(_COPY_MONTH), {"month": month, "source": MONTH})
                    await connection.commit()
                sizes.append(int(await connection.scalar(text(_SIZE))))
    return sizes


def report(result: Result) -> Report:
    tail = result.during.p99_ms / result.before.p99_ms
    year = result.bytes_per_row * FULL_PACKAGES * MONTHS_PER_YEAR
    rows = [
        ["packages", f"{result.rows - 1:,}", ""],
        [
            "roll-up",
            f"{result.seconds:.1f} s",
            verdict(result.seconds <= LONGEST_SECONDS, f"≤ {LONGEST_SECONDS} s"),
        ],
        ["CPU of the process", f"{result.cpu_seconds:.1f} s", ""],
        [
            "longest lock wait",
            f"{result.lock_seconds:.3f} s",
            verdict(result.lock_seconds <= LONGEST_LOCK_SECONDS, f"≤ {LONGEST_LOCK_SECONDS} s"),
        ],
        *(
            [f"readers {when}: requests/s, p50, p99", _read(measured), ""]
            for when, measured in (("before", result.before), ("during", result.during))
        ),
        [
            "ratio of the readers' p99, during to before",
            f"{tail:.1f}",
            verdict(tail <= MOST_P99_RATIO, f"≤ {MOST_P99_RATIO}"),
        ],
        ["bytes per package and month", f"{result.bytes_per_row:.0f}", ""],
        [
            f"a year of {FULL_PACKAGES:,} packages",
            megabytes(year),
            verdict(year <= MOST_BYTES_PER_YEAR, f"≤ {megabytes(MOST_BYTES_PER_YEAR)}"),
        ],
    ]
    return Report(
        name="months",
        title="Roll-up of a month",
        method=METHOD.format(
            packages=result.packages,
            days=len(days_of_month(MONTH)),
            others=MONTHS_PER_YEAR - 1,
            full=FULL_PACKAGES,
            head=HEAD_PACKAGES,
        ),
        tables=[Table("Outcome", ("what", "measured", "target"), rows)],
        figures=asdict(result),
        chart=_chart(result),
    )


def _read(readers: Measured) -> str:
    rate = f"{readers.requests_per_second:,.0f}"
    return f"{rate}, {readers.p50_ms:.1f} ms, {readers.p99_ms:.1f} ms"


def _chart(result: Result) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    months = range(1, len(result.sizes) + 1)
    axes.plot(months, [size / 1e6 for size in result.sizes], "o-")
    axes.set(title=f"Size of the months of {result.packages:,} packages, MB", xlabel="months")
    axes.set_ylim(bottom=0)
    return figure


@click.command()
@click.option(
    "--packages", type=click.IntRange(min=1_000), default=FULL_PACKAGES, show_default=True
)
@output_option
def months(packages: int, output: Path | None) -> None:
    """Measure the roll-up of a month, concurrent requests, and the size of months."""
    check_installed()
    report(run(packages)).save(results_folder(output))


if __name__ == "__main__":
    main(months)
