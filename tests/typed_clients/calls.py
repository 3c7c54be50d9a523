"""Calls every operation of the generated Python client: `python calls.py ADDRESS`.

It is type-checked together with the client. Prints each request: `GET /api/status 200`.
"""

import asyncio
import datetime as dt
import sys

import httpx
from pypi_stats_client import Client
from pypi_stats_client.api.badges import get_badge
from pypi_stats_client.api.details import (
    get_bulk_breakdown,
    get_bulk_overall,
    get_bulk_recent,
    get_country,
    get_history,
    get_python_support,
    get_summary,
    get_total,
)
from pypi_stats_client.api.dumps import get_dump, get_dumps
from pypi_stats_client.api.packages import get_overall, get_recent
from pypi_stats_client.api.rankings import get_search, get_top, get_trending
from pypi_stats_client.api.status import (
    get_changes,
    get_events,
    get_health,
    get_index,
    get_metrics,
    get_readiness,
    get_status,
)
from pypi_stats_client.models import (
    Badge,
    BadgePeriod,
    BreakdownDownloadsOfMany,
    BreakdownName,
    Changes,
    DailyDownloads,
    DumpFormat,
    Dumps,
    Events,
    Fault,
    Health,
    Index,
    Mirrors,
    OverallDownloads,
    OverallDownloadsOfMany,
    PackageHistory,
    PackageSummary,
    Period,
    Problem,
    PythonSupport,
    RankedPeriod,
    Readiness,
    RecentDownloads,
    RecentDownloadsOfMany,
    SearchResults,
    SeriesTotal,
    Status,
    SummedSeries,
    TopPackages,
    TrendingPackages,
    Truth,
)
from pypi_stats_client.types import UNSET, File

DAYS = 30


def _print_request(response: httpx.Response) -> None:
    request = response.request
    sys.stdout.write(f"{request.method} {request.url.path} {response.status_code}\n")


def _sum(data: list[DailyDownloads]) -> int:
    assert all(item.date <= dt.datetime.now(dt.UTC).date() for item in data)
    assert len({(item.category, item.date) for item in data}) == len(data)
    return sum(item.downloads for item in data)


def call_packages(client: Client) -> None:
    recent = get_recent.sync("requests", client=client)
    assert isinstance(recent, RecentDownloads)
    assert (recent.package, recent.type_) == ("requests", "recent_downloads")
    assert isinstance(recent.data.last_day, int)
    assert isinstance(recent.data.last_week, int)
    assert isinstance(recent.data.last_month, int)
    assert 0 < recent.data.last_day < recent.data.last_week < recent.data.last_month

    week = get_recent.sync("Requests", client=client, period=Period.WEEK)
    assert isinstance(week, RecentDownloads)
    assert week.data.last_week == recent.data.last_week
    assert week.data.last_day is UNSET
    assert week.data.last_month is UNSET

    overall = get_overall.sync("requests", client=client)
    assert isinstance(overall, OverallDownloads)
    assert len(overall.data) == 2 * DAYS
    assert {item.category for item in overall.data} == {"with_mirrors", "without_mirrors"}
    without = get_overall.sync("requests", client=client, mirrors=Mirrors.FALSE)
    assert isinstance(without, OverallDownloads)
    assert _sum(without.data) == recent.data.last_month

    total = get_total.sync("requests", SummedSeries.OVERALL, client=client)
    assert isinstance(total, SeriesTotal)
    assert total.data[1].downloads == recent.data.last_month
    assert total.data[0].share == 1

    support = get_python_support.sync("requests", client=client)
    assert isinstance(support, PythonSupport)
    assert [one.version for one in support.unknown] == ["null"]
    shares = [one.share or 0 for one in support.data]
    shares += [one.share or 0 for one in support.unknown]
    assert abs(sum(shares) - 1) < 0.001
    assert all(isinstance(one.end_of_life, dt.date) for one in support.data)
    few = "There are fewer than 56 days with comparable figures."
    assert {one.below_5_percent.reason for one in support.data} == {few}


def call_many_packages(client: Client) -> None:
    recent = get_bulk_recent.sync(client=client, package=["requests", "reqeusts"])
    assert isinstance(recent, RecentDownloadsOfMany)
    assert recent.missing == ["reqeusts"]
    assert recent.data == [get_recent.sync("requests", client=client)]

    day = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=3)
    overall = get_bulk_overall.sync(
        client=client, package=["requests", "flask"], start_date=day, end_date=day
    )
    assert isinstance(overall, OverallDownloadsOfMany)
    assert [series.package for series in overall.data] == ["flask", "requests"]
    assert {item.date for series in overall.data for item in series.data} == {day}

    systems = get_bulk_breakdown.sync(
        BreakdownName.SYSTEM, client=client, package=["requests,flask"], sum_=Truth.TRUE
    )
    assert isinstance(systems, BreakdownDownloadsOfMany)
    (summed,) = systems.data
    both = get_bulk_recent.sync(client=client, package=["requests", "flask"], sum_=Truth.TRUE)
    assert isinstance(both, RecentDownloadsOfMany)
    assert _sum(summed.data) == both.data[0].data.last_month
    means = get_bulk_breakdown.sync(
        BreakdownName.SYSTEM, client=client, package=["flask"], os="linux", rolling=7
    )
    assert isinstance(means, BreakdownDownloadsOfMany)
    assert len(means.data[0].data) == DAYS - 3
    assert means.data[0].events == []


def call_breakdowns(client: Client) -> None:
    recent = get_recent.sync("requests", client=client, period=Period.MONTH)
    assert isinstance(recent, RecentDownloads)
    # The test inserts calls here, for each breakdown of the registry.


def call_rankings(client: Client) -> None:
    recent = get_recent.sync("requests", client=client)
    assert isinstance(recent, RecentDownloads)
    top = get_top.sync(client=client, period=RankedPeriod.WEEK, limit=200)
    assert isinstance(top, TopPackages)
    assert top.through is not None
    assert (top.days, top.since) == (7, top.through - dt.timedelta(days=6))
    assert [one.rank for one in top.data] == list(range(1, len(top.data) + 1))
    assert sum(one.share or 0 for one in top.data) <= 1.001
    (requests,) = (one for one in top.data if one.package == "requests")
    assert requests.downloads == recent.data.last_week

    trending = get_trending.sync(client=client)
    assert isinstance(trending, TrendingPackages)
    assert all(one.last_week > one.previous_week for one in trending.data)

    found = get_search.sync(client=client, q="reqeusts", limit=1)
    assert isinstance(found, SearchResults)
    assert [one.package for one in found.data] == ["requests"]
    page = get_search.sync(client=client, q="p", limit=2)
    assert isinstance(page, SearchResults)
    assert page.next_cursor
    following = get_search.sync(client=client, q="p", limit=2, cursor=page.next_cursor)
    assert isinstance(following, SearchResults)
    assert len({one.package for one in (*page.data, *following.data)}) == 4

    summary = get_summary.sync("requests", client=client)
    assert isinstance(summary, PackageSummary)
    assert summary.data.recent.last_month == summary.data.downloads == recent.data.last_month
    assert summary.data.rank == found.data[0].rank
    assert summary.data.peak is not None
    assert isinstance(summary.data.peak.date, dt.date)
    assert summary.data.change.week is not None
    assert summary.data.change.month is None

    history = get_history.sync("requests", client=client)
    assert isinstance(history, PackageHistory)
    assert history.data.total.downloads == sum(one.without_mirrors for one in history.data.months)
    assert history.data.total.downloads == summary.data.total.downloads
    assert isinstance(history.data.total.since, dt.date)
    assert (history.data.total.days, history.data.total.missing) == (DAYS, [])

    badge = get_badge.sync("requests", BadgePeriod.MONTH, client=client)
    assert isinstance(badge, Badge)
    assert (badge.schema_version, badge.label) == (1, "downloads")
    assert badge.message.endswith("/month")


def call_status(client: Client) -> None:
    changes = get_changes.sync(client=client)
    assert isinstance(changes, Changes)
    assert (len(changes.data.days), changes.since) == (DAYS, None)
    assert isinstance(changes.data.days[0].published_at, dt.datetime)
    same = get_changes.sync(client=client, since=changes.next_)
    assert isinstance(same, Changes)
    assert (same.data.days, same.next_) == ([], changes.next_)

    status = get_status.sync(client=client)
    assert isinstance(status, Status)
    assert (status.sample, status.sources, status.days) == (True, ["sample"], DAYS)
    assert isinstance(status.first_day, dt.date)
    assert status.latest_day == status.first_day + dt.timedelta(days=DAYS - 1)
    assert isinstance(status.published_at, dt.datetime)
    assert status.published_at.tzinfo
    assert (status.gaps, status.downloads > 0) == ([], True)

    events = get_events.sync(client=client)
    assert isinstance(events, Events)
    assert all(one.end_date is None or one.end_date >= one.date for one in events.data)
    assert all(one in events.data for one in status.events)

    index = get_index.sync(client=client)
    assert isinstance(index, Index)
    assert (index.docs, index.status) == ("/docs", "/api/status")
    assert index.data_as_of == status.latest_day

    assert get_health.sync(client=client) == Health(status="ok")
    assert get_readiness.sync(client=client) == Readiness(status="ready")
    assert "pypi_stats_requests_total" in (get_metrics.sync(client=client) or "")


def call_dumps(client: Client) -> None:
    dumps = get_dumps.sync(client=client)
    assert isinstance(dumps, Dumps)
    (dump,) = dumps.data
    assert (dump.format_, dump.source) == (DumpFormat.PARQUET, "sample")
    assert dump.day <= dt.datetime.now(dt.UTC).date()
    file = get_dump.sync(dump.name, client=client)
    assert isinstance(file, File)
    content = file.payload.read()
    assert (len(content), content[:4]) == (dump.bytes_, b"PAR1")


def call_with_errors(client: Client) -> None:
    missing = get_recent.sync_detailed("no-such-package", client=client)
    assert missing.status_code == 404
    assert isinstance(missing.parsed, Problem)
    assert (missing.parsed.status, missing.parsed.title) == (404, "Not Found")
    assert "no-such-package" in missing.parsed.detail
    assert missing.parsed.errors is UNSET

    wrong = get_country.sync("requests", client=client, country="USA")
    assert isinstance(wrong, Problem)
    assert wrong.status == 422
    assert wrong.errors == [Fault("country", "should look like 'US', or be 'null'")]


async def call_asynchronously(client: Client) -> None:
    async with client:
        recent = await get_recent.asyncio("__all__", client=client)
    assert isinstance(recent, RecentDownloads)
    assert recent.package == "__all__"


def main(address: str) -> None:
    hooks = {"response": [_print_request]}
    with Client(
        address, raise_on_unexpected_status=True, httpx_args={"event_hooks": hooks}
    ) as client:
        call_packages(client)
        call_many_packages(client)
        call_breakdowns(client)
        call_rankings(client)
        call_status(client)
        call_dumps(client)
        call_with_errors(client)
    asyncio.run(call_asynchronously(Client(address, raise_on_unexpected_status=True)))


if __name__ == "__main__":
    main(sys.argv[1])
