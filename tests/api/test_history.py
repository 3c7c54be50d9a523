"""Months before the days served: series by month, histories, totals and rankings of months."""

import asyncio
import csv
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from datetime import date, timedelta
from itertools import groupby
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.api.history import PackageHistory
from app.api.statistics import Statistics
from app.db.engine import connect, create_engine
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.rankings_repository import RankingsRepository
from app.db.tables import daily_downloads, ingested_days, monthly_downloads, stored_months
from app.domain.downloads import PackageDownloads
from app.domain.events import KnownEvents
from app.domain.months import Month, days_of_month, month_of
from app.ingest.retention import expire
from app.main import ENDPOINTS, Service, create_app
from app.settings import IngestSource, Settings
from tests.clock import NOW
from tests.days import POLICY, days_ago, downloads, optional_counts, publish, roll_up, store_days
from tests.waiting import published, until_known

LATEST = days_ago(0)
SERVED_DAYS = 30
POLICY_OF_30_DAYS = replace(POLICY, retention_days=SERVED_DAYS)

FIRST = date(2026, 8, 20)
MISSING = (date(2026, 9, 12), date(2026, 9, 13), date(2026, 11, 2))
AUGUST, SEPTEMBER, OCTOBER, NOVEMBER = (date(2026, month, 1) for month in (8, 9, 10, 11))

Days = Mapping[date, list[PackageDownloads]]


def _rows(day: date) -> list[PackageDownloads]:
    number = (day - FIRST).days + 1
    counts = optional_counts(
        number, country={"US": number - 1, "DE": 1} if number > 1 else {"DE": 1}
    )
    flask = downloads(
        "flask",
        {"3.12": number - number // 3, "3.13": number // 3} if number >= 3 else number,
        {"linux": number},
        mirrors=number % 4,
        **counts,
    )
    gone = [downloads("gone", 5, mirrors=0, **optional_counts(5))] if day.month == 8 else []
    return [flask, *gone, downloads("numpy", 1000, mirrors=0, **optional_counts(1000))]


DAYS: Days = {
    day: _rows(day)
    for day in (FIRST + timedelta(days=number) for number in range((LATEST - FIRST).days + 1))
    if day not in MISSING
}


@pytest.fixture(scope="module")
async def engine(module_database_url: str) -> AsyncIterator[AsyncEngine]:
    """All days, and the months that have begun before the 30 days served."""
    engine = create_engine(module_database_url)
    await store_days(engine, DAYS)
    assert await roll_up(engine, SERVED_DAYS) == [AUGUST, SEPTEMBER, OCTOBER]
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def app(engine: AsyncEngine, module_database_url: str) -> AsyncIterator[Service]:
    """The service, after the days of August and September were dropped."""
    await expire(engine, POLICY_OF_30_DAYS, NOW)
    settings = Settings(rate_limits="", ingest_source=IngestSource.NONE, retention_days=SERVED_DAYS)
    app = create_app(settings, module_database_url, lambda: NOW)
    async with app.running():
        await until_known(app)
        yield app


def _sums(package: str, days: Collection[date], column: str = "") -> Counter[str]:
    """Return the downloads of a package in these days, by category."""
    sums: Counter[str] = Counter()
    for day in days:
        for row in DAYS[day]:
            if row.package == package:
                totals = {"with_mirrors": row.with_mirrors, "without_mirrors": row.without_mirrors}
                sums.update(row.breakdowns[column] if column else totals)
    return sums


def _days_in(month: date) -> list[date]:
    return [day for day in DAYS if month_of(day) == month]


async def _get(client: httpx.AsyncClient, path: str) -> Any:
    response = await client.get(f"/api/{path}")
    assert response.status_code == 200, response.text
    return response.json()


# Series by month


async def test_months_reach_back_to_the_first_stored_month(client: httpx.AsyncClient) -> None:
    """August and September lack days, October is stored and partly served, November runs."""
    october = _sums("flask", _days_in(OCTOBER))
    assert (await _get(client, "packages/flask/overall?interval=month"))["data"] == [
        {"category": category, "date": str(OCTOBER), "downloads": october[category]}
        for category in ("with_mirrors", "without_mirrors")
    ]
    for name, column in (("system", "system"), ("country", "country"), ("version", "version")):
        assert (await _get(client, f"packages/flask/{name}?interval=month"))["data"] == [
            {"category": category, "date": str(OCTOBER), "downloads": count}
            for category, count in sorted(_sums("flask", _days_in(OCTOBER), column).items())
        ]
    path = "packages/flask/country?interval=month&country=us"
    assert [one["category"] for one in (await _get(client, path))["data"]] == ["US"]


@pytest.mark.parametrize(
    ("arguments", "has_october"),
    [
        ("", True),
        ("&start_date=1990-01-01&end_date=2026-10-31", True),
        ("&start_date=2026-10-01", True),
        ("&start_date=2026-10-02", False),
        ("&end_date=2026-10-30", False),
        ("&start_date=2026-11-01", False),
        ("&end_date=2026-07-31", False),
    ],
)
async def test_a_range_contains_whole_months(
    client: httpx.AsyncClient, arguments: str, has_october: bool
) -> None:
    for series in ("overall", "python_minor", "installer"):
        found = await _get(client, f"packages/flask/{series}?interval=month{arguments}")
        assert {one["date"] for one in found["data"]} == ({str(OCTOBER)} if has_october else set())


async def test_a_range_of_days_or_weeks_is_clamped(client: httpx.AsyncClient) -> None:
    for interval in ("day", "week"):
        path = f"packages/flask/overall?interval={interval}"
        assert await _get(client, f"{path}&start_date=2020-01-01") == await _get(client, path)
    total = await _get(client, "packages/flask/overall/total?start_date=2020-01-01&interval=month")
    assert total == await _get(client, "packages/flask/overall/total")


async def test_months_as_csv_and_of_many_packages(client: httpx.AsyncClient) -> None:
    whole = await _get(client, "packages/flask/overall?interval=month&mirrors=false")
    (item,) = whole["data"]
    response = await client.get(
        "/api/packages/flask/overall?interval=month&mirrors=false&format=csv"
    )
    assert list(csv.DictReader(response.text.splitlines())) == [
        {name: str(value) for name, value in item.items()}
    ]
    names = "package=flask&package=gone&package=unknown"
    many = await _get(client, f"bulk/overall?{names}&interval=month&mirrors=false")
    assert many["missing"] == ["unknown"]
    assert [one["data"] for one in many["data"]] == [[item], []]
    # Only months reach back.
    assert (await _get(client, f"bulk/overall?{names}"))["missing"] == ["gone", "unknown"]


async def test_months_of_a_sum_and_of_a_breakdown_of_many_packages(
    client: httpx.AsyncClient,
) -> None:
    for series, column in (("overall", ""), ("country", "country"), ("installer", "installer")):
        path = f"bulk/{series}?package=numpy,flask,gone&interval=month"
        for one in (await _get(client, path))["data"]:
            alone = await _get(client, f"packages/{one['package']}/{series}?interval=month")
            assert one == alone
        sums: Counter[str] = Counter()
        for package in ("flask", "numpy"):
            sums += _sums(package, _days_in(OCTOBER), column)
        (whole,) = (await _get(client, f"{path}&sum=true"))["data"]
        assert whole["data"] == [
            {"category": category, "date": str(OCTOBER), "downloads": count}
            for category, count in sorted(sums.items())
        ]


async def test_months_are_filled_with_zeros(client: httpx.AsyncClient) -> None:
    """A package without downloads in a stored month gets a zero."""
    for package, expected in (("gone", []), ("flask", [_sums("flask", _days_in(OCTOBER))])):
        path = f"packages/{package}/overall?interval=month&fill=zero&mirrors=false"
        found = (await _get(client, path))["data"]
        assert [one["downloads"] for one in found] == [one["without_mirrors"] for one in expected]


# History, totals and rankings


async def test_the_payload_of_a_history(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/packages/Flask/history")
    months = ",".join(
        f'{{"month":"{Month(month)}","with_mirrors":{sums["with_mirrors"]},'
        f'"without_mirrors":{sums["without_mirrors"]},"days":{len(_days_in(month))},"rank":{rank}}}'
        for month, rank in ((AUGUST, 2), (SEPTEMBER, 2), (OCTOBER, 2), (NOVEMBER, "null"))
        for sums in [_sums("flask", _days_in(month))]
    )
    total = _sums("flask", DAYS)["without_mirrors"]
    missing = ",".join(
        f'{{"since":"2026-{first}","through":"2026-{last}"}}'
        for first, last in (("11-02", "11-02"), ("09-12", "09-13"))
    )
    assert response.text == (
        f'{{"data":{{"months":[{months}],"total":{{"downloads":{total},"since":"{FIRST}",'
        f'"through":"{LATEST}","days":{len(DAYS)},"missing":[{missing}]}}}},'
        '"package":"flask","type":"package_history"}'
    )
    PackageHistory.model_validate_json(response.content, strict=True, extra="forbid")
    tag = {"If-None-Match": response.headers["etag"]}
    assert (await client.get("/api/packages/flask/history", headers=tag)).status_code == 304


async def test_a_history_as_csv(client: httpx.AsyncClient) -> None:
    months = (await _get(client, "packages/flask/history"))["data"]["months"]
    response = await client.get("/api/packages/flask/history?format=csv")
    assert list(csv.DictReader(response.text.splitlines())) == [
        {name: "" if value is None else str(value) for name, value in month.items()}
        for month in months
    ]


async def test_the_total_of_a_package(client: httpx.AsyncClient) -> None:
    for package in ("flask", "numpy", "__all__"):
        history = (await _get(client, f"packages/{package}/history"))["data"]
        total = history["total"]
        assert total["downloads"] == sum(one["without_mirrors"] for one in history["months"])
        summary = (await _get(client, f"packages/{package}"))["data"]
        assert summary["total"] == {name: total[name] for name in ("downloads", "since", "through")}
        assert summary["downloads"] < total["downloads"]
    assert {one["rank"] for one in history["months"]} == {None}
    assert (await _get(client, "badges/gone/total"))["message"] == f"{12 * 5} total"
    assert (await _get(client, "badges/Numpy/TOTAL"))["message"] == f"{len(DAYS)}k total"


async def test_a_package_without_downloads_in_the_days_served(client: httpx.AsyncClient) -> None:
    detail = (
        "There is no package 'gone' with downloads in the days served. "
        "/api/packages/gone/history has its downloads in earlier months."
    )
    for path in (
        *("packages/gone", "packages/gone/recent", "packages/gone/overall", "badges/gone/month"),
        *("packages/gone/system?interval=week", "packages/gone/installer", "packages/gone/system"),
        "packages/gone/overall/total?interval=month",
    ):
        response = await client.get(f"/api/{path}")
        assert (response.status_code, response.json()["detail"]) == (404, detail)
    assert (await _get(client, "packages/gone/system?interval=month"))["data"] == []
    (month,) = (await _get(client, "packages/gone/history"))["data"]["months"]
    assert month == {
        "month": "2026-08",
        "with_mirrors": 60,
        "without_mirrors": 60,
        "days": 12,
        "rank": 3,
    }
    assert (await _get(client, "search?q=gone"))["data"] == []
    for scope, paths in {
        "in the days served": ("", "/overall?interval=month", "/recent"),
        "on any known day": ("/history",),
    }.items():
        for path in paths:
            response = await client.get(f"/api/packages/unknown{path}")
            detail = f"There is no package 'unknown' with downloads {scope}."
            assert (response.status_code, response.json()["detail"]) == (404, detail)
    response = await client.get("/api/badges/unknown/total")
    detail = "There is no package 'unknown' with downloads on any known day."
    assert (response.status_code, response.json()["detail"]) == (404, detail)


async def test_rankings_of_months(client: httpx.AsyncClient) -> None:
    stored = [day for day in DAYS if day < NOVEMBER]
    for path, days in (
        ("month=2026-08", _days_in(AUGUST)),
        ("month=2026-10", _days_in(OCTOBER)),
        ("period=all", stored),
    ):
        found = await _get(client, f"top?{path}")
        names = ("numpy", "flask", "gone")
        sums = {name: _sums(name, days)["without_mirrors"] for name in names}
        assert found == {
            "data": [
                {
                    "downloads": sums[name],
                    "package": name,
                    "rank": rank,
                    "share": round(sums[name] / sum(sums.values()), 6),
                }
                for rank, name in enumerate(names, 1)
                if sums[name]
            ],
            "days": len(days),
            "followed_packages": None,
            "since": str(days[0]),
            "through": str(days[-1]),
            "type": "top_packages",
        }
        limited = await _get(client, f"top?{path}&limit=1")
        assert limited["data"] == found["data"][:1]
        response = await client.get(f"/api/top?{path}&format=csv")
        assert len(response.text.splitlines()) == 1 + len(found["data"])
    month = await _get(client, "top?period=month")
    assert (month["days"], month["since"]) == (29, str(LATEST - timedelta(days=29)))


@pytest.mark.parametrize("month", ["2026-07", "2026-11", "2026-12", "9999-12", "0001-01"])
async def test_a_month_that_is_not_stored(client: httpx.AsyncClient, month: str) -> None:
    response = await client.get(f"/api/top?month={month}")
    assert response.status_code == 404
    assert response.json()["detail"] == (
        f"The month {month} is not stored. A month is stored once its days are final or no longer "
        "served. Stored months: 2026-08 to 2026-10."
    )


# Splits of days into months and window


class _Split:
    """A state of the database in a transaction, and what is known in it."""

    def __init__(
        self, connection: AsyncConnection, served_days: int, stored: set[date], dropped: date
    ) -> None:
        self._connection = connection
        self._served_days = served_days
        self._stored = stored
        self._first_kept = max(month_of(LATEST - timedelta(days=served_days - 1)), dropped)
        self.known = [day for day in DAYS if month_of(day) in stored or day >= self._first_kept]

    async def prepare(self) -> None:
        """Drop months that are not stored, and days before the window or even in it, as if
        RETENTION_DAYS had been less until now.
        """
        for table in (monthly_downloads, stored_months):
            await self._connection.execute(delete(table).where(table.c.month.not_in(self._stored)))
        for column in (daily_downloads.c.date, ingested_days.c.day):
            await self._connection.execute(delete(column.table).where(column < self._first_kept))

    async def get(self, target: str) -> Any:
        reader = DownloadsRepository(self._connection, self._served_days)
        publication = await reader.publication()
        assert publication
        path, _, query = target.partition("?")
        parsed = ENDPOINTS.parse(f"/api/{path}", query.encode(), publication.served, None)
        assert parsed
        rankings = RankingsRepository(self._connection, self._served_days)
        statistics = Statistics(
            reader.with_source(self._connection, publication),
            rankings.with_source(self._connection, publication),
            KnownEvents(),
            publication,
        )
        return orjson.loads((await parsed.answer(statistics)).body)["data"]


async def test_every_split_adds_up(database_url: str) -> None:
    """Whatever is stored in months and what in days, figures are those of the known days."""
    loop = asyncio.get_running_loop()
    engine = create_engine(database_url)
    await store_days(engine, DAYS)
    await roll_up(engine, SERVED_DAYS)

    async def compare(
        served_days: int, stored: set[date], dropped: date, start: date, end: date
    ) -> None:
        async with connect(engine) as connection:
            split = _Split(connection, served_days, stored, dropped)
            await split.prepare()
            for package in ("flask", "__all__"):
                await _check_history(split, package)
            for name in ("overall", "python_minor", "python_major", "system", "country"):
                await _check_series(split, name, start, end)
            await connection.rollback()

    @hypothesis_settings(max_examples=25)
    @given(
        st.integers(20, 93),
        st.sets(st.sampled_from([AUGUST, SEPTEMBER, OCTOBER])),
        st.sampled_from([AUGUST, SEPTEMBER, OCTOBER, NOVEMBER]),
        st.dates(date(2026, 8, 1), date(2026, 10, 3)),
        st.dates(date(2026, 10, 3), date(2026, 12, 1)),
    )
    def check(served_days: int, stored: set[date], dropped: date, start: date, end: date) -> None:
        comparison = compare(served_days, stored, dropped, start, end)
        asyncio.run_coroutine_threadsafe(comparison, loop).result()

    await asyncio.to_thread(check)
    await engine.dispose()


async def _check_history(split: _Split, package: str) -> None:
    names = {"flask", "numpy", "gone"} if package == "__all__" else {package}
    history = await split.get(f"packages/{package}/history")
    months = {month: list(days) for month, days in groupby(split.known, month_of)}
    found = {
        one["month"]: (one["with_mirrors"], one["without_mirrors"], one["days"])
        for one in history["months"]
    }
    expected = {}
    for month, days in months.items():
        sums = sum((_sums(name, days) for name in names), Counter[str]())
        expected[str(Month(month))] = (sums["with_mirrors"], sums["without_mirrors"], len(days))
    assert found == expected
    total = history["total"]
    assert total["downloads"] == sum(one[1] for one in expected.values())
    assert (total["since"], total["through"]) == (str(split.known[0]), str(LATEST))
    gaps = sum(
        (date.fromisoformat(one["through"]) - date.fromisoformat(one["since"])).days + 1
        for one in total["missing"]
    )
    assert total["days"] == len(split.known) == (LATEST - split.known[0]).days + 1 - gaps
    summary = await split.get(f"packages/{package}")
    assert summary["total"]["downloads"] == total["downloads"]


async def _check_series(split: _Split, name: str, start: date, end: date) -> None:
    expected: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for month, group in groupby(split.known, month_of):
        days = list(group)
        if days == days_of_month(month) and start <= month and days[-1] <= end:
            column = "" if name == "overall" else name.replace("major", "minor")
            sums: Counter[str] = Counter()
            for category, count in _sums("flask", days, column).items():
                sums[category.partition(".")[0] if name == "python_major" else category] += count
            for category, count in sums.items():
                expected[category].append((str(month), count))
    found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    range_ = f"interval=month&start_date={start}&end_date={end}"
    for item in await split.get(f"packages/flask/{name}?{range_}"):
        found[item["category"]].append((item["date"], item["downloads"]))
    assert found == expected


# Publications


async def test_a_roll_up_changes_tags_only_if_figures_change(
    client: httpx.AsyncClient, app: Service, engine: AsyncEngine
) -> None:
    """A day of a stored month is published again, before and after the month is rolled up."""
    path = "/api/packages/flask/history"
    before = await client.get(path)
    version = published(app).version
    day = OCTOBER + timedelta(days=24)
    await publish(engine, day, downloads("flask", 10**6, mirrors=0, **optional_counts(10**6)))
    await until_known(app, version)
    assert await roll_up(engine, SERVED_DAYS) == [OCTOBER]
    after = await client.get(path)
    changed = _sums("flask", [day])["without_mirrors"]
    totals = [one.json()["data"]["total"]["downloads"] for one in (before, after)]
    assert totals[1] - totals[0] == 10**6 - changed
    assert after.headers["etag"] != before.headers["etag"]
    async with connect(engine) as connection:
        count = await connection.scalar(text("SELECT count(*) FROM stored_months"))
    assert count == 3
