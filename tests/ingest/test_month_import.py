"""Past months that are imported from a source, and not rolled up from days."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect
from app.db.repositories.months_repository import MonthsRepository
from app.db.repositories.runs_repository import RunsRepository, latest_runs
from app.db.tables import monthly_downloads, packages
from app.domain.downloads import PackageDownloads, RunOutcome
from app.domain.months import Month, Period, StoredMonth, days_of, parse_month
from app.domain.package_name import ALL_PACKAGES
from app.errors import (
    DatabaseUnavailableError,
    IngestError,
    MixedDataError,
    RepeatedFaultError,
    SourceUnavailableError,
)
from app.ingest.month_import import MonthPlan, plan_months
from app.ingest.publish import PublishContext
from app.ingest.rollup import roll_up_due
from app.ingest.runs import DayIngester
from app.ingest.sources.sample import SampleSource
from app.ingest.sources.source import DayRows
from app.settings import Settings
from tests.clock import NOW
from tests.contents import everything
from tests.days import POLICY, GivenSource, days_ago, downloads, ingest, publish, store_days
from tests.ingest.test_plan import published
from tests.ingest.test_rollup import differences

MONTH = parse_month("2025-02")
ROWS = [
    downloads("flask", {"3.12": 50, "3.9": 10}, {"linux": 60}, mirrors=5, ci={"true": 60}),
    downloads("only-then", {"null": 70}, {"windows": 70}, ci={"false": 69, "true": 1}),
    downloads("mirrored", 0, mirrors=3, ci={}),
]


@pytest.fixture
async def engine_with_day(engine: AsyncEngine) -> AsyncEngine:
    await publish(engine, days_ago(0), downloads("flask", 1))
    return engine


def _run(engine: AsyncEngine, source: GivenSource | SampleSource) -> DayIngester:
    return DayIngester(PublishContext(engine, POLICY, lambda: NOW), source)


async def _stored(engine: AsyncEngine) -> dict[date, StoredMonth]:
    async with connect(engine) as connection:
        return await MonthsRepository(connection).stored()


async def test_an_imported_month(engine_with_day: AsyncEngine) -> None:
    engine = engine_with_day
    source = GivenSource({MONTH: ROWS})
    stored = await _run(engine, source).import_month(MONTH)
    assert (stored.month, stored.days, stored.missing_days) == (MONTH.first, 28, ())
    assert (stored.packages, stored.downloads, stored.downloads_with_mirrors) == (3, 130, 138)
    assert (stored.source, stored.days_digest) == ("given", None)
    assert list(stored.breakdowns) == ["python_minor", "system", "ci"]
    assert (await _stored(engine))[MONTH.first].digest == stored.digest
    async with connect(engine) as connection:
        rows = await connection.execute(
            select(
                packages.c.name,
                packages.c.last_seen,
                *monthly_downloads.c["with_mirrors", "without_mirrors", "rank"],
            )
            .join(packages, packages.c.id == monthly_downloads.c.package_id)
            .order_by(packages.c.name)
        )
        assert [tuple(row) for row in rows] == [
            (ALL_PACKAGES, days_ago(0), 138, 130, None),
            ("flask", days_ago(0), 65, 60, 2),
            ("mirrored", None, 3, 0, None),
            ("only-then", None, 70, 70, 1),
        ]
    assert await differences(engine) == []
    (run,) = await latest_runs(engine, 2)
    assert (run.period, run.outcome, run.rows) == (MONTH, RunOutcome.PUBLISHED, 3)
    assert await RunsRepository(engine).failures() == {}


async def test_an_import_equals_a_roll_up(engine: AsyncEngine) -> None:
    """The rows, ranks and totals of a month do not depend on where they come from."""
    month = parse_month("2026-06")
    by_day = {
        day: [
            downloads("flask", {"3.12": day.day, "null": 1}, {"linux": day.day + 1}, mirrors=2),
            downloads(f"p{day.day}", 5),
        ]
        for day in days_of(month)
    }
    await store_days(engine, by_day)
    (rolled_up,) = [
        one
        async for one in roll_up_due(
            PublishContext(engine, POLICY, lambda: NOW + timedelta(days=60)), Settings()
        )
    ]
    before = await everything(engine)
    total = sum(day.day for day in by_day)
    rows = [
        downloads("flask", {"3.12": total, "null": 30}, {"linux": total + 30}, mirrors=60),
        *(downloads(f"p{day.day}", 5) for day in by_day),
    ]
    imported = await _run(engine, GivenSource({month: rows})).import_month(month)
    assert imported.digest == rolled_up.digest
    after = await everything(engine)
    del before["months"], after["months"]
    assert after == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "given has no rows for 2025-02"),
        ([downloads("a b", 1)], "no valid rows"),
        (
            [*ROWS[:1], downloads("numpy", {"3.12": 2}, {"linux": 1}, ci={"true": 2})],
            "1 rows are wrong: system does not add up",
        ),
        ([*ROWS, ROWS[0]], "a package more than once for 2025-02"),
    ],
)
async def test_a_month_with_wrong_rows_is_refused(
    engine_with_day: AsyncEngine, rows: Sequence[PackageDownloads], message: str
) -> None:
    await _run(engine_with_day, GivenSource({MONTH: ROWS})).import_month(MONTH)
    before = await everything(engine_with_day)
    with pytest.raises(IngestError, match=message):
        await _run(engine_with_day, GivenSource({MONTH: rows})).import_month(MONTH)
    assert await everything(engine_with_day) == before
    (run, *_) = await latest_runs(engine_with_day, 1)
    assert run.outcome is RunOutcome.FAILED


async def test_months_that_fail_do_not_stop_others(engine_with_day: AsyncEngine) -> None:
    wrong = downloads("numpy", {"3.12": 2}, {"linux": 1}, ci={"true": 2})
    months = [parse_month(f"2025-0{number}") for number in range(9, 0, -1)]
    source = GivenSource({month: [*ROWS, wrong] for month in months[2:5]} | {months[1]: ROWS})
    running = _run(engine_with_day, source).import_months(months)
    outcomes = [await anext(running) for _ in months[:5]]
    with pytest.raises(RepeatedFaultError, match="3 months in a row"):
        await anext(running)
    assert [outcome.period for outcome in outcomes] == months[:5]
    assert str(outcomes[0]).startswith("2025-09 failed: given has no rows for 2025-09")
    assert str(outcomes[1]).startswith("stored 2025-08: 3 packages, 130 downloads")
    assert list(await _stored(engine_with_day)) == [months[1].first]


class _BreakingSource(GivenSource):
    """Raises an error while the result is read."""

    error: BaseException | None = None

    async def read(self, period: Period, query: str | None) -> DayRows:
        if self.error:
            raise self.error
        return await super().read(period, query)


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), SourceUnavailableError("gone"), DatabaseUnavailableError("gone")],
)
async def test_a_stopped_import_reuses_its_query(
    engine_with_day: AsyncEngine, error: BaseException
) -> None:
    """A day's query is another one, even if the month begins with that day."""
    source = _BreakingSource({MONTH: ROWS, MONTH.first: ROWS})
    source.error = error
    with pytest.raises(type(error)):
        await _run(engine_with_day, source).import_month(MONTH)
    unfinished = RunsRepository(engine_with_day)
    assert await unfinished.run_to_resume(MONTH.first, "given", NOW) is None
    source.error = None
    await _run(engine_with_day, source).import_month(MONTH)
    assert source.asked_days == [MONTH]


async def test_months_are_not_planned_as_failed_days(engine_with_day: AsyncEngine) -> None:
    with pytest.raises(IngestError):
        await _run(engine_with_day, GivenSource({})).import_month(MONTH)
    assert await RunsRepository(engine_with_day).failures() == {}
    (run,) = await latest_runs(engine_with_day, 1)
    assert (run.period, run.day) == (MONTH, MONTH.first)
    assert [one.is_month for one in await latest_runs(engine_with_day, 9, only_days=True)] == []


async def test_sample_and_real_months_are_not_mixed(engine: AsyncEngine) -> None:
    with pytest.raises(IngestError, match="no day is published yet"):
        await _run(engine, SampleSource()).import_month(MONTH)
    await ingest(engine, SampleSource(), days_ago(0))
    with pytest.raises(MixedDataError, match="holds sample data"):
        await _run(engine, GivenSource({MONTH: ROWS})).import_month(MONTH)
    sample = await _run(engine, SampleSource()).import_month(MONTH)
    assert (sample.source, sample.packages) == ("sample", 200)
    await publish(engine, days_ago(0), downloads("flask", 1), replace_sample=True)
    assert await _stored(engine) == {}
    with pytest.raises(MixedDataError, match="holds real data"):
        await _run(engine, SampleSource()).import_month(MONTH)


async def test_an_imported_month_stays_beside_a_part_of_its_days(engine: AsyncEngine) -> None:
    """Also if the days that the database has leave the window."""
    month = parse_month("2026-10")
    await store_days(
        engine, {day: [downloads("flask", 1)] for day in (days_of(month)[-1], days_ago(0))}
    )
    imported = await _run(engine, GivenSource({month: ROWS})).import_month(month)
    context = PublishContext(engine, replace(POLICY, retention_days=30), lambda: NOW)
    assert [one async for one in roll_up_due(context, Settings())] == []
    assert (await _stored(engine))[month.first].digest == imported.digest


def _plan(first: str, last: str, **stored: StoredMonth) -> MonthPlan:
    """Plan with 30 days in the database, which begin in the middle of October 2026."""
    return plan_months(
        (parse_month(first), parse_month(last)),
        {day: published(day) for day in map(days_ago, range(30))},
        {one.month: one for one in stored.values()},
        now=NOW,
        policy=replace(POLICY, retention_days=30, keep_months=12),
    )


def _record(month: str, **values: object) -> StoredMonth:
    fields: dict[str, object] = {
        "month": parse_month(month).first,
        "days": 28,
        "source": "bigquery",
        "counted_files": None,
        "breakdowns": (),
        "categories": {},
        "packages": 1,
        "downloads": 1,
        "downloads_with_mirrors": 1,
        "digest": "",
        "rolled_up_at": NOW,
    }
    return StoredMonth(**(fields | values))  # type: ignore[arg-type]


def test_which_months_are_imported() -> None:
    part = _record("2026-10", days=10, missing_days=[date(2026, 10, 1)], days_digest="x")
    plan = _plan("2026-08", "2026-10", part=part, stored=_record("2026-09"))
    assert plan == MonthPlan(
        [parse_month("2026-10"), parse_month("2026-08")], [], [parse_month("2026-09")]
    )


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ("2026-10", "2026-11", "2026-11 can't be imported: .* latest complete one is 2026-10"),
        ("2026-10", "9999-12", "9999-12 can't be imported"),
        ("0001-01", "2026-10", "0001-01 can't be imported: the first month is 2016-01"),
        ("2015-12", "2026-10", "2015-12 can't be imported"),
        ("2025-10", "2026-10", "KEEP_MONTHS=12 keeps the months from 2025-11 on"),
    ],
)
def test_months_that_can_not_be_imported(first: str, last: str, message: str) -> None:
    with pytest.raises(IngestError, match=message):
        _plan(first, last)


def test_months_of_days_are_not_imported() -> None:
    month = parse_month("2026-10")
    days = {day: published(day) for day in (*days_of(month), days_ago(0))}
    for retention_days in (1, 60):
        plan = plan_months(
            (Month(date(2026, 9, 1)), month),
            days,
            {},
            now=NOW,
            policy=replace(POLICY, retention_days=retention_days),
        )
        assert plan == MonthPlan([parse_month("2026-09")], [month], [])
