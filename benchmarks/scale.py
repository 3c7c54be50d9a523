"""Measures how reads, publishes and size grow with the numbers of packages and days."""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from shutil import disk_usage
from statistics import median
from time import perf_counter

import click
from matplotlib.figure import Figure
from sqlalchemy import text

from app.db.engine import connect
from app.db.repositories.downloads_repository import DownloadsRepository
from app.domain.clock import utc_now
from app.domain.downloads import PackageDownloads
from app.domain.months import Period
from app.ingest.pipeline import read_and_publish
from app.ingest.publish import PublishContext
from benchmarks.command_line import (
    BenchmarkError,
    bench_dir,
    main,
    output_option,
    progress,
    results_folder,
)
from benchmarks.data import LAST_DAY, SEED, SyntheticSource, batches, days_before, package_name
from benchmarks.databases import (
    FORCED,
    SERVED_DAYS,
    drop,
    fill_with_copies,
    in_autocommit,
    opened,
    postgres,
    url_of,
)
from benchmarks.load import Load, Measured, check_installed, measure
from benchmarks.narrow_layout import NarrowLayout, build_narrow_layout
from benchmarks.report import Report, Table, megabytes, verdict
from benchmarks.servers import service

ENDPOINTS = ("recent", "overall", "python_minor")

PACKAGES = (5_000, 20_000, 80_000)

PYPI_PACKAGES = 700_000
"""Number of packages that PyPI has downloads of in a day."""

DISK_BYTES_OF_PACKAGE_DAY = 350
"""Disk space per package and day, including the write-ahead log and rewritten rows."""

PUBLISHES = 3
"""Number of days whose publish is timed."""

READ_SECONDS = 5

MOST_GROWTH = 1.5
"""Maximum growth of the time of a read from the fewest packages to the most."""

MOST_PUBLISH_GROWTH = 1.2
"""Maximum growth of the time of a publish from the shortest history to the longest. It should not
grow, apart from the variation of measurements.
"""

LEAST_NARROW_TO_OURS = 5

METHOD = (
    "Each database is filled from empty. One day goes through the pipeline. Its rows are copied "
    "for all other days except the last {publishes}. These have rows of their own, which are "
    "generated before they are published; the median of their publishing times is reported. Then "
    "one connection requests random packages from each endpoint for {seconds} s, with the cache "
    "off. All sizes are measured with the packages of the smallest one. Bytes include indexes. "
    "The conventional layout stores the same rows in five tables with text keys and one row per "
    "date, package and category."
)


@dataclass(frozen=True, slots=True)
class Size:
    packages: int
    days: int
    package_days: int
    publish_seconds: float
    size_bytes: int
    reads: dict[str, Measured]

    @property
    def bytes_per_package_day(self) -> float:
        return self.size_bytes / self.package_days


@dataclass(frozen=True, slots=True)
class Growth:
    sizes: Sequence[Size]
    narrow: NarrowLayout
    """Conventional layout of the smallest number of packages and all days."""


def run(packages: Sequence[int], histories: Sequence[int]) -> Growth:
    sizes: list[Size] = []
    narrow: NarrowLayout | None = None
    paths = dict(_write_paths(min(packages)))
    with postgres() as server_url:
        for number in sorted(packages):
            database = f"scale_{number}"
            asyncio.run(drop(server_url, database))
            try:
                sizes += (
                    _measure(server_url, database, number, days, histories, paths)
                    for days in sorted(histories)
                )
                if narrow is None:
                    progress("creating the conventional layout")
                    narrow = asyncio.run(_narrow(server_url, database))
            finally:
                asyncio.run(drop(server_url, database))
    assert narrow
    return Growth(sizes, narrow)


def _write_paths(packages: int) -> Iterator[tuple[str, Path]]:
    order = list(range(1, packages + 1))
    random.Random(SEED).shuffle(order)
    for endpoint in ENDPOINTS:
        paths = bench_dir() / f"scale_{endpoint}.paths"
        listed = [f"/api/packages/{package_name(rank)}/{endpoint}\n" for rank in order]
        paths.write_text("".join(listed))
        yield endpoint, paths


def _measure(
    server_url: str,
    database: str,
    packages: int,
    days: int,
    histories: Sequence[int],
    paths: dict[str, Path],
) -> Size:
    # Each history ends later than a shorter one, by the days whose publish is timed.
    later = sorted(histories, reverse=True).index(days)
    last = LAST_DAY - timedelta(days=PUBLISHES * later)
    publish_seconds = asyncio.run(_grow(server_url, database, packages, days, last))
    size_bytes, package_days = asyncio.run(_held(server_url, database))
    reads = {}
    with service(url_of(server_url, database), RESPONSE_CACHE_MAX_BYTES="0") as server:
        for endpoint in ENDPOINTS:
            load = Load(paths=paths[endpoint], connections=1)
            reads[endpoint] = measure(server, load, READ_SECONDS)
    progress(
        f"{packages:,} packages, {days} days: publish of a day {publish_seconds:.2f} s, "
        f"{megabytes(size_bytes)}, "
        + ", ".join(f"{endpoint} {read.p50_ms:.1f} ms" for endpoint, read in reads.items())
    )
    return Size(packages, days, package_days, publish_seconds, size_bytes, reads)


class _PreparedDay(SyntheticSource):
    """A source whose day is generated before it is read."""

    def __init__(self, packages: int, day: date) -> None:
        super().__init__(packages)
        self._rows = list(batches(packages, day))

    async def _batches(self, _: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
        for batch in self._rows:
            yield batch


async def _grow(server_url: str, database: str, packages: int, days: int, last: date) -> float:
    """Fill the database up to `days`, and return the median time of the last publishes."""
    wanted = days_before(last, days)
    seconds = []
    async with opened(server_url, database) as engine:
        await fill_with_copies(engine, packages, wanted[:-PUBLISHES])
        for day in wanted[-PUBLISHES:]:
            source = _PreparedDay(packages, day)
            began = perf_counter()
            await read_and_publish(PublishContext(engine, FORCED, utc_now), source, day)
            seconds.append(perf_counter() - began)
        await in_autocommit(engine, "VACUUM ANALYZE", "CHECKPOINT")
    return median(seconds)


async def _held(server_url: str, database: str) -> tuple[int, int]:
    """Return the size in bytes and the number of rows, one per package and day."""
    async with opened(server_url, database) as engine:
        size = await DownloadsRepository(engine, SERVED_DAYS).size()
        async with connect(engine) as connection:
            rows = await connection.scalar(text("SELECT count(*) FROM daily_downloads"))
    assert rows
    return size.size_bytes, rows


async def _narrow(server_url: str, database: str) -> NarrowLayout:
    async with opened(server_url, database) as engine:
        return await build_narrow_layout(engine)


def report(growth: Growth) -> Report:
    return Report(
        name="scale",
        title="Growth with packages and days",
        method=METHOD.format(publishes=PUBLISHES, seconds=READ_SECONDS),
        tables=[
            Table(
                "Sizes",
                (
                    *("packages", "days", "publish s", "size", "bytes per package and day"),
                    *(f"{endpoint} p50 / p99 ms" for endpoint in ENDPOINTS),
                ),
                [_row(size) for size in growth.sizes],
            ),
            Table("Targets", ("what", "measured", "target"), _targets(growth)),
        ],
        figures=asdict(growth),
        chart=_chart(growth.sizes),
    )


def _row(size: Size) -> list[str]:
    return [
        f"{size.packages:,}",
        f"{size.days}",
        f"{size.publish_seconds:.2f}",
        megabytes(size.size_bytes),
        f"{size.bytes_per_package_day:.0f}",
        *(f"{read.p50_ms:.2f} / {read.p99_ms:.2f}" for read in size.reads.values()),
    ]


def _targets(growth: Growth) -> list[list[str]]:
    longest = [size for size in growth.sizes if size.days == growth.sizes[-1].days]
    few, many = longest[0], longest[-1]
    rows = [
        [
            f"{endpoint} p50, ratio of {many.packages:,} to {few.packages:,} packages",
            f"{(ratio := many.reads[endpoint].p50_ms / few.reads[endpoint].p50_ms):.2f}",
            verdict(ratio <= MOST_GROWTH, f"≤ {MOST_GROWTH}"),
        ]
        for endpoint in ENDPOINTS
    ]
    most = [size for size in growth.sizes if size.packages == many.packages]
    rows.append(
        [
            f"publish of {many.packages:,} packages, {most[-1].days} days to {most[0].days}",
            f"{(ratio := most[-1].publish_seconds / most[0].publish_seconds):.2f}",
            verdict(ratio <= MOST_PUBLISH_GROWTH, f"≤ {MOST_PUBLISH_GROWTH}"),
        ]
    )
    narrow_to_ours = growth.narrow.size_bytes / few.size_bytes
    rows += [
        [
            f"conventional layout, {few.packages:,} packages, {few.days} days",
            f"{megabytes(growth.narrow.size_bytes)}, {growth.narrow.rows:,} rows",
            "",
        ],
        [
            "size, as a ratio to the conventional layout",
            f"1/{narrow_to_ours:.1f}",
            verdict(narrow_to_ours >= LEAST_NARROW_TO_OURS, f"≤ 1/{LEAST_NARROW_TO_OURS}"),
        ],
    ]
    return rows


def _chart(sizes: Sequence[Size]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    reads, publishes, bytes_ = figure.subplots(1, 3)
    days = sizes[-1].days
    longest = [size for size in sizes if size.days == days]
    packages = [size.packages for size in longest]
    for endpoint in ENDPOINTS:
        reads.plot(
            packages, [size.reads[endpoint].p50_ms for size in longest], "o-", label=endpoint
        )
    reads.set(title=f"A cold read, {days} days: p50, ms", xlabel="packages", xscale="log")
    reads.set_xticks(packages, [f"{number // 1000}k" for number in packages])
    reads.minorticks_off()
    for number in packages:
        same = [size for size in sizes if size.packages == number]
        held = [size.days for size in same]
        label = f"{number:,} packages"
        publishes.plot(held, [size.publish_seconds for size in same], "o-", label=label)
        bytes_.plot(held, [size.size_bytes / 1e6 for size in same], "o-", label=label)
    publishes.set(title="Publish of a day, s", xlabel="stored days")
    bytes_.set(title="Size, MB", xlabel="stored days")
    for axes in (reads, publishes, bytes_):
        axes.set_ylim(bottom=0)
    # One legend is enough for both charts.
    reads.legend()
    bytes_.legend()
    return figure


def _sizes_that_fit(days: int) -> set[int]:
    """Return the usual numbers of packages that fit on the disk, and the largest one that fits."""
    most = disk_usage(bench_dir()).free // (days * DISK_BYTES_OF_PACKAGE_DAY) // 1000 * 1000
    fitting = {packages for packages in PACKAGES if packages <= most}
    if not fitting:
        raise BenchmarkError(f"{bench_dir()} has no room for {min(PACKAGES):,} packages")
    return fitting | {min(most, PYPI_PACKAGES)}


@click.command()
@click.option(
    "--packages",
    type=click.IntRange(min=1_000),
    multiple=True,
    help="Repeat for each size. Default: 5,000, 20,000, 80,000, and as many as the disk can store, "
    f"at most {PYPI_PACKAGES:,}.",
)
@click.option(
    "--days",
    type=click.IntRange(min=2 * PUBLISHES, max=SERVED_DAYS),
    multiple=True,
    default=(30, 90, 180),
    show_default=True,
    help="Repeat for each history.",
)
@output_option
def scale(packages: tuple[int, ...], days: tuple[int, ...], output: Path | None) -> None:
    """Measure how reads, publishes and size grow with packages and days."""
    check_installed()
    sizes = set(packages) or _sizes_that_fit(max(days))
    report(run(sorted(sizes), sorted(set(days)))).save(results_folder(output))


if __name__ == "__main__":
    main(scale)
