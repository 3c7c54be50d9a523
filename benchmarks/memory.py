"""Measures the memory of a server process that sends more responses than its cache can store."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path

import click
from matplotlib.figure import Figure

from benchmarks.command_line import (
    BenchmarkError,
    bench_dir,
    main,
    output_option,
    progress,
    results_folder,
)
from benchmarks.data import PYTHON_MINOR_SHARES, SEED, SYSTEM_SHARES, package_name
from benchmarks.databases import postgres, served_database
from benchmarks.load import Load, check_installed, measure
from benchmarks.report import Report, Table, megabytes, verdict
from benchmarks.servers import service

DISTINCT_URLS = 100_000

FULL_REQUESTS = 2_000_000

REQUESTS_PER_NEW_URL = 20
"""Number of requests in a cycle: one for the next of all URLs, one with an invented URL, and the
others for popular URLs."""

POPULAR_URLS = 1_000

STEP_SECONDS = 5

SETTLED_SHARE = 0.2
"""Share of the requests after which the cache is full and the memory should no longer grow."""

MOST_GROWTH = 1.05
"""Maximum ratio of the memory at the end to the memory at that time."""

METHOD = (
    "wrk with {connections} connections sends {requests:,} requests for {packages:,} packages to a "
    "service with its default settings, and the resident memory is read every {step} s. Of {per} "
    "requests, one is for the next of {urls:,} distinct URLs (packages, endpoints and arguments), "
    "one has a query string that is used only once (an unknown argument, a filter that matches "
    "nothing, a wrong value, or two packages), and the others are for {popular:,} popular URLs."
)

ENDPOINTS = (
    *("recent", "overall", "python_major", "python_minor", "system"),
    *(f"recent?period={period}" for period in ("day", "week", "month")),
    *(f"overall?mirrors={mirrors}" for mirrors in ("true", "false")),
    *(f"python_minor?version={version}" for version in PYTHON_MINOR_SHARES),
    *(f"system?os={os}" for os in SYSTEM_SHARES),
    *(f"recent?as_of={number}" for number in range(30)),
)

FLOODS = ("recent?nonce={}", "python_minor?version={}", "recent?period={}", "overall?mirrors={}")


@dataclass(frozen=True, slots=True)
class Sample:
    requests: int
    rss_bytes: int


def sequence(packages: int) -> Iterator[str]:
    """Yield paths in the order in which they are requested."""
    urls = [
        f"/api/packages/{package_name(rank)}/{endpoint}"
        for endpoint in ENDPOINTS
        for rank in range(1, packages + 1)
    ]
    choice = random.Random(SEED)
    choice.shuffle(urls)
    del urls[DISTINCT_URLS:]
    popular = urls[:POPULAR_URLS]
    for number in count():
        yield urls[number % len(urls)]
        yield _flood(number, packages)
        yield from choice.choices(popular, k=REQUESTS_PER_NEW_URL - 2)


def _flood(number: int, packages: int) -> str:
    kind = number % (len(FLOODS) + 1)
    if kind == len(FLOODS):
        first, second = divmod(number, packages)
        pair = package_name(1 + first), package_name(1 + second)
        return f"/api/bulk/overall?package={pair[0]}&package={pair[1]}"
    return f"/api/packages/{package_name(1)}/{FLOODS[kind].format(f'x{number}')}"


def run(packages: int, requests: int) -> list[Sample]:
    paths = bench_dir() / "memory.paths"
    with paths.open("w") as file:
        file.writelines(f"{path}\n" for path in islice(sequence(packages), requests))
    with postgres() as server_url:
        database_url = asyncio.run(served_database(server_url, packages))
        with service(database_url) as server:
            samples = [Sample(0, server.rss_bytes())]
            while (done := samples[-1].requests) < requests:
                measured = measure(server, Load(paths=paths), STEP_SECONDS, skip=done)
                if measured.not_ok > measured.requests / 10:
                    raise BenchmarkError(f"{measured.not_ok} responses were errors")
                samples.append(Sample(done + measured.requests, measured.rss_bytes))
                progress(f"{samples[-1].requests:,} requests: {megabytes(samples[-1].rss_bytes)}")
    return samples


def report(samples: Sequence[Sample], packages: int, requests: int) -> Report:
    settled = next(
        sample for sample in samples if sample.requests >= SETTLED_SHARE * samples[-1].requests
    )
    highest = max(samples, key=lambda sample: sample.rss_bytes)
    rows = (
        ("started", samples[0]),
        (f"after {SETTLED_SHARE:.0%} of the requests", settled),
        ("highest", highest),
        ("last", samples[-1]),
    )
    return Report(
        name="memory",
        title="Memory of a server process",
        method=METHOD.format(
            connections=Load().connections,
            requests=requests,
            packages=packages,
            step=STEP_SECONDS,
            per=REQUESTS_PER_NEW_URL,
            urls=DISTINCT_URLS,
            popular=POPULAR_URLS,
        ),
        tables=[
            Table(
                "Resident memory",
                ("when", "requests", "RSS"),
                [
                    [when, f"{sample.requests:,}", megabytes(sample.rss_bytes)]
                    for when, sample in rows
                ],
            ),
            Table("Target", ("what", "measured", "target"), [_growth(settled, samples[-1])]),
        ],
        figures=[asdict(sample) for sample in samples],
        chart=_chart(samples),
    )


def _growth(settled: Sample, last: Sample) -> list[str]:
    growth = last.rss_bytes / settled.rss_bytes
    judged = verdict(growth <= MOST_GROWTH, f"≤ {MOST_GROWTH}")
    if last.requests < FULL_REQUESTS:
        judged = "only judged without --quick"
    return [f"ratio of the last to that after {SETTLED_SHARE:.0%}", f"{growth:.2f}", judged]


def _chart(samples: Sequence[Sample]) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [sample.requests / 1000 for sample in samples],
        [sample.rss_bytes / 1e6 for sample in samples],
    )
    axes.set(xlabel="thousand requests", ylabel="RSS, MB", title="Memory of a server process")
    axes.set_ylim(bottom=0)
    return figure


@click.command()
@click.option("--quick", is_flag=True, help="Use few packages and requests; takes 15 s.")
@click.option("--packages", type=click.IntRange(min=2_000), help="Default: 20,000; quick 2,000.")
@click.option("--requests", type=click.IntRange(min=1), help="Default: 2,000,000; quick 50,000.")
@output_option
def memory(quick: bool, packages: int | None, requests: int | None, output: Path | None) -> None:
    """Measure the memory of a server process over many requests."""
    check_installed()
    packages = packages or (2_000 if quick else 20_000)
    requests = requests or (50_000 if quick else FULL_REQUESTS)
    report(run(packages, requests), packages, requests).save(results_folder(output))


if __name__ == "__main__":
    main(memory)
