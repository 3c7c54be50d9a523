"""Measures requests per second of the service and of a bare function that sends the same bytes."""

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from statistics import mean, median

import click
import httpx
from matplotlib.figure import Figure

from benchmarks.command_line import (
    BenchmarkError,
    bench_dir,
    main,
    output_option,
    progress,
    results_folder,
)
from benchmarks.data import SEED, package_name
from benchmarks.databases import postgres, served_database
from benchmarks.load import CONNECTIONS, Load, Measured, check_installed, measure
from benchmarks.report import Report, Table, megabytes, verdict
from benchmarks.servers import Server, bare_function, fetch, service

MAX_P99_TO_P50_COLD = 6.0

LEAST_304_PACE = 0.97
"""Minimum ratio of the rate of 304 responses to that of whole ones. It should be 1, apart from the
variation of measurements.
"""

SAMPLED_PACKAGES = 200
"""Number of packages whose mean response size the bare function sends in cold cases."""

METHOD = (
    "wrk with {connections} connections on one thread loads a bare uvicorn function and the "
    "service alternately for {seconds} s each, in {rounds} rounds; in a round, 304 responses are "
    "measured {turns_304} times. Each round starts both servers anew, because two processes with "
    "the same code can differ by a tenth. Figures are medians, and each ratio compares two "
    "consecutive measurements. The database has {packages:,} packages and 180 days, and each "
    "server {workers} worker(s). The bare function sends the same bytes with the same content "
    "headers. The service has its default settings, except for unreachable rate limits, and logs "
    "requests to a file. In hot cases the response is cached, except for the 404. In cold cases "
    "the cache is off, every request is for another package, and the bare function sends bodies "
    "of the mean size; rankings have only one address, so concurrent requests share a response. "
    "CPU (of one core) and RSS are those of the service's processes, RSS after this case and all "
    "cases before it. wrk, the servers and Postgres share the machine."
)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    target: str
    """Path and query, with `{}` as the placeholder of each package."""

    least: float | None = None
    """Target: minimum ratio to the rate of the bare function."""

    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200

    @property
    def is_judged(self) -> bool:
        return self.least is not None or self.status == 304

    def targets(self, packages: Iterable[str]) -> Iterator[str]:
        """Yield the targets of all packages, one after the other."""
        asked = self.target.count("{}")
        names = iter(packages)
        for of_a_request in zip(*[names] * asked, strict=False) if asked else [()]:
            yield self.target.format(*of_a_request)


RECENT = "/api/packages/{}/recent"
OVERALL = "/api/packages/{}/overall"
PYTHON_MINOR = "/api/packages/{}/python_minor"
# All other breakdowns with few categories are read and rendered in the same way.
SYSTEM = "/api/packages/{}/system"
ROLLING = f"{OVERALL}?rolling=7"
MONTHS_AS_CSV = f"{OVERALL}?interval=month&format=csv"
TWENTY = "&".join(["package={}"] * 20)
RECENT_OF_20 = f"/api/bulk/recent?{TWENTY}"
OVERALL_OF_20 = f"/api/bulk/overall?{TWENTY}"
SYSTEM_OF_20 = f"/api/bulk/system?{TWENTY}"
SUM_OF_20 = f"/api/bulk/overall?{TWENTY}&sum=true"
SUMMARY = "/api/packages/{}"
PYTHON_SUPPORT = "/api/packages/{}/python_support"
HISTORY = "/api/packages/{}/history"
BADGE = "/api/badges/{}/month"
TOP = "/api/top?limit=100"
TRENDING = "/api/trending?limit=100"
CHANGES = "/api/changes"
SEARCH = "/api/search?q={}"

HOT = (
    Case("recent", RECENT, least=0.5),
    # shields.io sends this spelling.
    Case("recent, another spelling", f"{RECENT}?&period=month", least=0.5),
    Case("recent, 304", RECENT, status=304),
    Case("overall", OVERALL),
    Case("python_minor", PYTHON_MINOR, least=0.6),
    Case("python_minor, gzip", PYTHON_MINOR, least=0.6, headers={"accept-encoding": "gzip"}),
    Case("python_minor, zstd", PYTHON_MINOR, least=0.6, headers={"accept-encoding": "zstd"}),
    Case("system", SYSTEM),
    Case("overall, rolling", ROLLING),
    Case("overall, months as CSV", MONTHS_AS_CSV),
    Case("recent of 20", RECENT_OF_20),
    Case("overall of 20", OVERALL_OF_20),
    Case("overall of 20, sum", SUM_OF_20),
    Case("system of 20", SYSTEM_OF_20),
    Case("summary", SUMMARY),
    Case("python_support", PYTHON_SUPPORT),
    Case("history", HISTORY),
    Case("badge", BADGE),
    Case("top 100", TOP),
    Case("trending 100", TRENDING),
    Case("changes", CHANGES),
    Case("search", SEARCH),
    Case("unknown package, 404", "/api/packages/no-such-package/recent", status=404),
)
LOG_OFF = (Case("recent, no request log", RECENT, least=0.6),)
COLD = (
    Case("recent, cold", RECENT, least=0.07),
    Case("overall, cold", OVERALL, least=0.05),
    Case("python_minor, cold", PYTHON_MINOR, least=0.02),
    Case("system, cold", SYSTEM),
    Case("overall, rolling, cold", ROLLING),
    Case("overall, months as CSV, cold", MONTHS_AS_CSV),
    Case("recent of 20, cold", RECENT_OF_20),
    Case("overall of 20, cold", OVERALL_OF_20),
    Case("overall of 20, sum, cold", SUM_OF_20),
    Case("system of 20, cold", SYSTEM_OF_20),
    Case("summary, cold", SUMMARY),
    Case("python_support, cold", PYTHON_SUPPORT),
    Case("history, cold", HISTORY),
    Case("badge, cold", BADGE),
    Case("top 100, cold", TOP),
    Case("trending 100, cold", TRENDING),
    Case("changes, cold", CHANGES),
    Case("search, cold", SEARCH),
)


PARTS: tuple[tuple[Sequence[Case], dict[str, str]], ...] = (
    (HOT, {}),
    (LOG_OFF, {"REQUEST_LOG": "false"}),
    (COLD, {"RESPONSE_CACHE_MAX_BYTES": "0"}),
)
"""Cases, with the settings of the service that they are measured with."""


@dataclass(frozen=True, slots=True)
class Result:
    case: Case
    service: list[Measured] = field(default_factory=list)
    bare: list[Measured] = field(default_factory=list)
    """Measurements of the bare function in the same rounds."""

    whole: list[Measured] = field(default_factory=list)
    """Measurements of the same request without a tag, for cases with 304 responses."""

    @property
    def ratio(self) -> float:
        return _pace(self.service, self.bare)

    @property
    def tail(self) -> float:
        return median(round_.p99_ms / round_.p50_ms for round_ in self.service)


def _pace(ones: Sequence[Measured], others: Sequence[Measured]) -> float:
    """Return the median ratio of two rates that were measured in the same rounds."""
    return median(_paces(ones, others))


def _paces(ones: Sequence[Measured], others: Sequence[Measured]) -> list[float]:
    return [
        one.requests_per_second / other.requests_per_second
        for one, other in zip(ones, others, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Form:
    packages: int
    rounds: int
    seconds: int
    workers: int

    turns_304: int
    """Number of turns per round for 304 responses, whose rate is close to that of whole ones."""

    is_quick: bool
    """True to measure only cases that have a target."""

    def measured(self, cases: Iterable[Case]) -> Iterator[Case]:
        return (case for case in cases if case.is_judged or not self.is_quick)


def run(form: Form) -> list[Result]:
    parts = [([Result(case) for case in form.measured(cases)], of) for cases, of in PARTS]
    with postgres() as server_url:
        database_url = asyncio.run(served_database(server_url, form.packages))
        for number in range(form.rounds):
            for results, settings in parts:
                with service(database_url, workers=form.workers, **settings) as server:
                    for result in results:
                        progress(f"round {number + 1} of {form.rounds}: {result.case.name}")
                        (_cold if result.case in COLD else _hot)(server, result, form)
    return [result for results, _ in parts for result in results]


def _hot(server: Server, result: Result, form: Form) -> None:
    case = result.case
    path = next(case.targets(map(package_name, count(1))))
    headers = case.headers
    if case.status == 304:
        headers = {"if-none-match": fetch(server, path, {}).headers["etag"]}
    answer = fetch(server, path, headers)
    if answer.status_code != case.status:
        raise BenchmarkError(f"{path} returned status {answer.status_code}")
    with bare_function(answer, workers=form.workers) as bare:
        for _ in range(form.turns_304 if case.status == 304 else 1):
            _measure(result, server, bare, Load(path, headers), form.seconds)


def _cold(server: Server, result: Result, form: Form) -> None:
    order = list(range(1, form.packages + 1))
    random.Random(SEED).shuffle(order)
    paths = bench_dir() / "cold.paths"
    listed = list(result.case.targets(map(package_name, order)))
    paths.write_text("\n".join(listed) + "\n")
    with httpx.Client(base_url=server.url, headers={"accept-encoding": "identity"}) as client:
        sizes = [
            len(client.get(path).raise_for_status().content) for path in listed[:SAMPLED_PACKAGES]
        ]
    with bare_function(b" " * round(mean(sizes)), workers=form.workers) as bare:
        _measure(result, server, bare, Load(paths=paths), form.seconds)


def _measure(result: Result, server: Server, bare: Server, load: Load, seconds: int) -> None:
    """Load both servers in turn. The order alternates, so that a machine that slows down affects
    both.
    """
    case = result.case
    turns = [(bare, load, result.bare), (server, load, result.service)]
    if case.status == 304:
        turns.append((server, Load(load.path), result.whole))
    asked = SAMPLED_PACKAGES + sum(measured.requests for measured in result.service)
    for asked_one, its_load, measured in turns[:: -1 if len(result.service) % 2 else 1]:
        measured.append(measure(asked_one, its_load, seconds, skip=asked))
    ours, bare_one = result.service[-1], result.bare[-1]
    for one in (ours, bare_one, *result.whole[-1:]):
        if one.not_ok != (one.requests if case.status >= 400 else 0):
            raise BenchmarkError(
                f"{case.name}: {one.not_ok} of {one.requests} responses were errors"
            )
    if result.whole and ours.bytes_per_request >= result.whole[-1].bytes_per_request:
        raise BenchmarkError(f"{case.name}: the responses were not 304")
    progress(
        f"{ours.requests_per_second:,.0f} requests/s, "
        f"{ours.requests_per_second / bare_one.requests_per_second:.1%} of the bare function"
    )


def _row(result: Result) -> list[str]:
    ours = result.service

    def of(attribute: str, rounds: Sequence[Measured] = ours) -> float:
        values: list[float] = [getattr(measured, attribute) for measured in rounds]
        return median(values)

    return [
        result.case.name,
        f"{of('requests_per_second'):,.0f}",
        f"{of('requests_per_second', result.bare):,.0f}",
        f"{result.ratio:.1%}",
        _judged(result),
        f"{of('p50_ms'):.2f}",
        f"{of('p99_ms'):.2f}",
        megabytes(of("bytes_per_second")),
        f"{of('cpu_percent'):.0f} %",
        megabytes(of("rss_bytes")),
    ]


def _judged(result: Result) -> str:
    least = result.case.least
    return "" if least is None else verdict(result.ratio >= least, f"≥ {least:.0%}")


def _other_targets(results: dict[str, Result], form: Form) -> list[list[str]]:
    rows = []
    for name in (case.name for case in COLD if case.name in results):
        tail = results[name].tail
        judged = verdict(tail <= MAX_P99_TO_P50_COLD, f"≤ {MAX_P99_TO_P50_COLD:g}")
        rows.append([f"{name}: ratio of p99 to p50", f"{tail:.1f}", judged])
    known = results["recent, 304"]
    paces = _paces(known.service, known.whole)
    judged = "only judged without --quick"
    if not form.is_quick:
        pace = f"≥ {LEAST_304_PACE}"
        judged = verdict(median(paces) >= LEAST_304_PACE, pace)
    shown = f"{median(paces):.2f} ({min(paces):.2f} to {max(paces):.2f})"
    rows.append(["ratio of 304 to 200, recent", shown, judged])
    return rows


def report(results: Sequence[Result], form: Form) -> Report:
    columns = (
        *("case", "requests/s", "bare", "ratio", "target"),
        *("p50 ms", "p99 ms", "bytes/s", "CPU", "RSS"),
    )
    return Report(
        name="serving",
        title="Serving, compared with a bare function",
        method=METHOD.format(connections=CONNECTIONS, **asdict(form)),
        tables=[
            Table("Requests", columns, [_row(result) for result in results]),
            Table(
                "Other targets",
                ("what", "measured", "target"),
                _other_targets({result.case.name: result for result in results}, form),
            ),
        ],
        figures={"form": asdict(form), "cases": [asdict(result) for result in results]},
        chart=_chart(results),
    )


def _chart(results: Sequence[Result]) -> Figure:
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    hot = [result for result in results if result.case not in COLD]
    cold = [result for result in results if result.case in COLD]
    upper, lower = figure.subplots(2, height_ratios=(len(hot), len(cold)))
    for axes, shown in ((upper, hot), (lower, cold)):
        names = [result.case.name for result in shown][::-1]
        percents = [100 * result.ratio for result in shown][::-1]
        bars = axes.barh(names, percents)
        axes.bar_label(bars, fmt="%.1f %%", padding=3)
        targets = [
            (100 * result.case.least, row)
            for row, result in enumerate(reversed(shown))
            if result.case.least is not None
        ]
        for target, row in targets:
            axes.plot([target, target], [row - 0.45, row + 0.45], color="#c44e52", linewidth=2)
        axes.set_xlim(0, 1.2 * max(*percents, *(target for target, _ in targets)))
    upper.set_title("Requests per second, in percent of the bare function (red: target)")
    return figure


@click.command()
@click.option(
    "--quick",
    is_flag=True,
    help="Measure only cases with a target, with few packages, in about a minute.",
)
@click.option("--packages", type=click.IntRange(min=1_000), help="Default: 20,000; quick 2,000.")
@click.option("--rounds", type=click.IntRange(min=1), help="Default: 5; quick 2.")
@click.option(
    "--seconds", type=click.IntRange(min=1), help="Duration of each load. Default: 3; quick 1."
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True)
@output_option
def serving(
    quick: bool,
    packages: int | None,
    rounds: int | None,
    seconds: int | None,
    workers: int,
    output: Path | None,
) -> None:
    """Measure requests per second, hot and cold, of the service and a bare function."""
    check_installed()
    form = Form(
        packages=packages or (2_000 if quick else 20_000),
        rounds=rounds or (2 if quick else 5),
        seconds=seconds or (1 if quick else 3),
        workers=workers,
        turns_304=1 if quick else 3,
        is_quick=quick,
    )
    report(run(form), form).save(results_folder(output))


if __name__ == "__main__":
    main(serving)
