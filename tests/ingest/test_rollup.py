"""Months are rolled up before their days are dropped, and lose nothing."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from random import Random

import orjson
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect
from app.db.publication import current_publication
from app.db.repositories.months_repository import MonthsRepository
from app.db.tables import monthly_downloads, packages, top_packages
from app.domain.breakdowns import MAX_OPEN_CATEGORIES, REQUIRED_COLUMNS
from app.domain.downloads import PackageDownloads, Publication
from app.domain.events import CountedFiles
from app.domain.months import StoredMonth, days_of_month, month_of, unpack
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import ALL_MONTHS
from app.errors import HeldDayError
from app.ingest.publish import PublishContext
from app.ingest.retention import RetentionResult, expire
from app.ingest.rollup import months_of, roll_up, roll_up_due
from app.ingest.runs import published_days
from app.ingest.verification import days_to_verify, verify
from app.settings import IngestSource, Settings
from tests.clock import NOW
from tests.contents import everything
from tests.days import POLICY, GivenSource, downloads, ingest, optional_counts, publish, store_days

JUNE = date(2026, 6, 1)
LATER = datetime(2026, 12, 24, tzinfo=NOW.tzinfo)

Days = dict[date, list[PackageDownloads]]


async def roll_up_now(
    engine: AsyncEngine,
    *,
    retention_days: int = 180,
    keep_months: int | None = None,
    now: datetime = LATER,
) -> list[StoredMonth]:
    policy = replace(POLICY, retention_days=retention_days, keep_months=keep_months)
    context = PublishContext(engine, policy, lambda: now)
    return [month async for month in roll_up_due(context, Settings())]


async def expire_now(
    engine: AsyncEngine, retention_days: int = 30, keep_months: int | None = None
) -> RetentionResult:
    policy = replace(POLICY, retention_days=retention_days, keep_months=keep_months)
    return await expire(engine, policy, NOW)


def month_of_days(month: date) -> Days:
    return {day: [downloads("flask", 100 + day.day)] for day in days_of_month(month)}


Totals = Mapping[str, tuple[int, int]]


def sums(days: Days) -> Totals:
    """Return the downloads by package, with and without mirrors."""
    found: dict[str, tuple[int, int]] = {}
    for rows in days.values():
        for row in rows:
            for name in (row.package, ALL_PACKAGES):
                with_mirrors, without_mirrors = found.get(name, (0, 0))
                found[name] = (
                    with_mirrors + row.with_mirrors,
                    without_mirrors + row.without_mirrors,
                )
    return found


async def stored_months(engine: AsyncEngine) -> Mapping[date, StoredMonth]:
    async with connect(engine) as connection:
        return await MonthsRepository(connection).stored()


async def stored_totals(engine: AsyncEngine) -> Mapping[date, Totals]:
    found: dict[date, dict[str, tuple[int, int]]] = {}
    query = select(
        packages.c.name, *monthly_downloads.c["month", "with_mirrors", "without_mirrors"]
    ).join(packages, packages.c.id == monthly_downloads.c.package_id)
    async with connect(engine) as connection:
        for name, month, *totals in await connection.execute(query):
            found.setdefault(month, {})[name] = tuple(totals)
    return found


async def stored_counts(engine: AsyncEngine, package: str, column: str) -> Mapping[str, int]:
    """Return a package's counts of the only month."""
    (month,) = (await stored_months(engine)).values()
    query = text(
        f"SELECT CAST({column} AS text) FROM monthly_downloads JOIN packages ON id = package_id "
        "WHERE name = :package"
    )
    async with connect(engine) as connection:
        stored = await connection.scalar(query, {"package": package})
    return unpack(orjson.loads(stored), month.categories[column])


async def ranks_of(engine: AsyncEngine, month: date = JUNE) -> Mapping[str, int | None]:
    query = (
        select(packages.c.name, monthly_downloads.c.rank)
        .join(packages, packages.c.id == monthly_downloads.c.package_id)
        .where(monthly_downloads.c.month == month)
    )
    async with connect(engine) as connection:
        return dict([tuple(row) for row in await connection.execute(query)])


async def top_of_months(engine: AsyncEngine) -> list[tuple[str, int]]:
    query = (
        select(*top_packages.c["name", "downloads"])
        .where(top_packages.c.period == ALL_MONTHS)
        .order_by(top_packages.c.rank)
    )
    async with connect(engine) as connection:
        return [tuple(row) for row in await connection.execute(query)]


async def publication_of(engine: AsyncEngine, retention_days: int = 180) -> Publication:
    publication = await current_publication(engine, retention_days)
    assert publication
    return publication


async def corrupt(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(statement)


async def differences(engine: AsyncEngine) -> list[str]:
    days = await days_to_verify(engine, None)
    return [
        str(one) async for step in verify(engine, days, packages=True) for one in step.differences
    ]


async def test_a_month_of_final_days_is_rolled_up(engine: AsyncEngine) -> None:
    days = month_of_days(JUNE)
    days[JUNE].append(downloads("only-mirrors", 0, mirrors=3))
    days[JUNE].append(downloads("numpy", {"3.12": 7, "null": 1}, {"windows": 8}, mirrors=1))
    await store_days(engine, days)
    (month,) = await roll_up_now(engine)
    assert (month.month, month.days, month.missing_days) == (JUNE, 30, [])
    assert (month.packages, month.downloads, month.downloads_with_mirrors) == (3, 3473, 3477)
    assert (month.source, month.counted_files) == ("given", CountedFiles.ALL)
    assert month.breakdowns == list(REQUIRED_COLUMNS)
    assert month == replace(
        (await stored_months(engine))[JUNE],
        categories=month.categories,
        breakdowns=month.breakdowns,
        announced_at=None,
    )
    assert (await stored_totals(engine))[JUNE] == sums(days)
    assert await stored_counts(engine, "numpy", "python_minor") == {"3.12": 7, "null": 1}
    assert await stored_counts(engine, ALL_PACKAGES, "system") == {"linux": 3465, "windows": 8}
    assert await ranks_of(engine) == {
        "flask": 1,
        "numpy": 2,
        "only-mirrors": None,
        ALL_PACKAGES: None,
    }
    assert await top_of_months(engine) == [("flask", 3465), ("numpy", 8)]
    assert await roll_up_now(engine) == []
    assert await differences(engine) == []


async def test_a_month_is_due_when_its_last_day_is_final(engine: AsyncEngine) -> None:
    """The last day of June is checked once more, at the end of the first of July."""
    days = month_of_days(JUNE)
    last = max(days)
    await store_days(engine, days)
    early = "UPDATE ingested_days SET checked_at = '2026-07-01' WHERE day = "
    await corrupt(engine, f"{early}'{last}'")
    midnight = datetime(2026, 7, 2, tzinfo=NOW.tzinfo)
    assert await roll_up_now(engine, now=midnight - timedelta(hours=1)) == []
    # Unless the check was missed for a week.
    assert await roll_up_now(engine, now=midnight + timedelta(days=6)) == []
    assert await roll_up_now(engine, now=midnight + timedelta(days=8))


async def test_a_month_with_a_doubtful_day_waits_until_it_leaves_the_window(
    engine: AsyncEngine,
) -> None:
    """A suspect day counts as published then, and a held day as missing."""
    days = month_of_days(JUNE)
    held, suspect = date(2026, 6, 20), date(2026, 6, 29)
    del days[held]
    await store_days(engine, days)
    source = GivenSource({held: [downloads("flask", 1)]})
    with pytest.raises(HeldDayError):
        await ingest(engine, source, held, POLICY)
    await corrupt(
        engine, f"UPDATE ingested_days SET suspect_reason = 'few' WHERE day = '{suspect}'"
    )
    assert await roll_up_now(engine) == []
    await store_days(engine, month_of_days(date(2026, 7, 1)))
    # Nothing is dropped, and July stays in the window of 31 days.
    assert (await expire_now(engine, 31)).partitions == []
    month, _ = await roll_up_now(engine, retention_days=31)
    assert (month.month, month.days, month.missing_days) == (JUNE, 29, [held])
    assert (await stored_totals(engine))[JUNE] == sums(days)
    assert (await expire_now(engine, 31)).partitions == ["daily_downloads_2026_06"]
    assert (await stored_totals(engine))[JUNE] == sums(days)
    assert await differences(engine) == []


async def test_a_month_that_is_replaced_is_rolled_up_again(engine: AsyncEngine) -> None:
    """The database then equals one in which the day was published like that at first."""
    days = month_of_days(JUNE)
    day = date(2026, 6, 10)
    days[day] = [downloads("gone", 2), downloads("flask", 5)]
    await store_days(engine, days)
    await roll_up_now(engine)
    first = await publication_of(engine)
    changed = [downloads("flask", 77, mirrors=2), downloads("new", {"2.7": 3})]
    await publish(engine, day, *changed)
    # Nothing is lost meanwhile.
    assert (await stored_totals(engine))[JUNE] == sums(days)
    assert await differences(engine) == []
    before = await publication_of(engine)
    (month,) = await roll_up_now(engine)
    days[day] = changed
    assert (await stored_totals(engine))[JUNE] == sums(days)
    after = await publication_of(engine)
    assert len({first.version, before.version, after.version}) == 3
    assert first.published_at < before.published_at < after.published_at
    assert [one.digest for one in after.months] == [month.digest]
    assert await differences(engine) == []
    replaced = await everything(engine)
    for statement in (
        "DELETE FROM monthly_downloads",
        "DELETE FROM stored_months",
        "DELETE FROM top_packages WHERE period = 'all'",
    ):
        await corrupt(engine, statement)
    (june,) = months_of(await published_days(engine))
    await roll_up(PublishContext(engine, POLICY, lambda: LATER), june)
    assert await everything(engine) == replaced
    assert "gone" not in {row[0] for row in replaced["packages"]}


async def test_a_day_that_changes_during_the_roll_up(engine: AsyncEngine) -> None:
    """The sums are outdated then, so they are not stored, and the next run sums again."""
    days = month_of_days(JUNE)
    await store_days(engine, days)
    (month,) = months_of(await published_days(engine))
    await publish(engine, date(2026, 6, 10), downloads("flask", 77))
    context = PublishContext(engine, POLICY, lambda: LATER)
    assert await roll_up(context, month) is None
    assert await stored_totals(engine) == {}
    assert await roll_up_now(engine)
    assert await differences(engine) == []


async def test_only_the_breakdowns_of_all_days_are_stored(engine: AsyncEngine) -> None:
    """Open breakdowns have as many categories as on a day, and `__all__` has none of them."""
    days: Days = {}
    for day in days_of_month(JUNE):
        versions = {f"{day.day}.{number}": 1 for number in range(10)}
        versions |= {"other": 4, "main": 86}
        counts = optional_counts(100, version=versions)
        if day == date(2026, 6, 30):
            del counts["cpu"]
        days[day] = [downloads("flask", 100, **counts)]  # type: ignore[arg-type]
    await store_days(engine, days)
    (month,) = await roll_up_now(engine)
    assert "cpu" not in month.breakdowns
    assert {"installer", "version", "distro"} <= set(month.breakdowns)
    assert month.categories["version"] == []
    versions = dict(await stored_counts(engine, "flask", "version"))
    assert versions.pop("main") == 86 * 30
    assert versions.pop("other") == 4 * 30 + 300 - (MAX_OPEN_CATEGORIES - 1)
    assert len(versions) == MAX_OPEN_CATEGORIES - 1
    assert set(versions.values()) == {1}
    assert await differences(engine) == []


async def test_keep_months(engine: AsyncEngine) -> None:
    """The latest complete months are kept, and packages with no row in them are deleted."""
    for month, package in ((4, "gone"), (5, "may"), (6, "june"), (7, "july")):
        days = days_of_month(date(2026, month, 1))
        await store_days(engine, {day: [downloads(package, 100)] for day in days})
    stored = await roll_up_now(engine, keep_months=3)
    assert [one.month.month for one in stored] == [5, 6, 7]
    assert [one.month.month for one in await roll_up_now(engine)] == [4]
    assert (await expire_now(engine, 31, keep_months=3)).months == [date(2026, 4, 1)]
    names = {"may", "june", "july"}
    assert {name for name, _ in await top_of_months(engine)} == names
    async with connect(engine) as connection:
        assert set(await connection.scalars(select(packages.c.name))) == {*names, ALL_PACKAGES}
    assert await differences(engine) == []
    before = await publication_of(engine)
    assert len((await expire_now(engine, 31, keep_months=0)).months) == 3
    after = await publication_of(engine)
    assert after.months == ()
    assert before.version != after.version
    assert await roll_up_now(engine, keep_months=0) == []
    assert await top_of_months(engine) == []
    assert await differences(engine) == []


async def test_dropping_days_that_no_month_keeps_is_announced(engine: AsyncEngine) -> None:
    """The days were served in months, so answers change, and so does the time of the publish."""
    await store_days(engine, month_of_days(JUNE) | month_of_days(date(2026, 7, 1)))
    before = await publication_of(engine, 31)
    assert (await expire_now(engine, 31, keep_months=0)).partitions == ["daily_downloads_2026_06"]
    after = await publication_of(engine, 31)
    assert before.version != after.version
    assert before.published_at < after.published_at


async def test_an_imported_month_stays_until_as_many_days_are_published(
    engine: AsyncEngine,
) -> None:
    days = month_of_days(JUNE)
    await store_days(engine, days)
    await roll_up_now(engine)
    await corrupt(engine, "UPDATE stored_months SET days_digest = NULL, source = 'imported'")
    await corrupt(engine, "DELETE FROM daily_downloads WHERE date = '2026-06-01'")
    await corrupt(engine, "DELETE FROM ingested_days WHERE day = '2026-06-01'")
    assert await roll_up_now(engine) == []
    await publish(engine, JUNE, *days[JUNE])
    (month,) = await roll_up_now(engine)
    assert month.source == "given"


async def test_a_longer_window_does_not_shorten_a_stored_month(engine: AsyncEngine) -> None:
    """Days of a dropped month that are published again replace it only if they are all there."""
    days = month_of_days(JUNE)
    await store_days(engine, days | month_of_days(date(2026, 7, 1)))
    await roll_up_now(engine, retention_days=31)
    assert (await expire_now(engine, 31)).partitions == ["daily_downloads_2026_06"]
    changed = {day: [downloads("flask", 1)] for day in days}
    await store_days(engine, {day: changed[day] for day in days if day.day > 21})
    assert await roll_up_now(engine, retention_days=40) == []
    assert (await stored_totals(engine))[JUNE] == sums(days)
    assert await differences(engine) == []
    await store_days(engine, {day: changed[day] for day in days if day.day <= 21})
    assert len(await roll_up_now(engine, retention_days=40)) == 1
    assert (await stored_totals(engine))[JUNE] == sums(changed)


async def test_sample_months_are_deleted_with_the_sample(engine: AsyncEngine) -> None:
    await store_days(engine, month_of_days(JUNE), name=IngestSource.SAMPLE)
    await roll_up_now(engine)
    await publish(engine, date(2026, 6, 30), downloads("flask", 1), replace_sample=True)
    assert await stored_months(engine) == {}
    assert await stored_totals(engine) == {}
    assert await top_of_months(engine) == []
    assert await differences(engine) == []


_SUMS = "recorded [3464,9], found [3465,8]"
_CHANGES = {
    "UPDATE monthly_downloads SET with_mirrors = with_mirrors + 1 WHERE rank = 2": [
        "digest of the month: recorded DIGEST, found DIGEST",
        "downloads_with_mirrors of the month: recorded 3473, found 3474",
        "__all__ with_mirrors of the month: recorded 3473, found 3474",
        "with_mirrors of the month, summed: recorded 9, found 8 for numpy",
    ],
    "UPDATE monthly_downloads SET rank = 3 WHERE rank = 2": [
        "rank of the month: recorded 3, found 2 for numpy",
    ],
    "UPDATE monthly_downloads SET system = '[8]' WHERE rank = 2": [
        "digest of the month: recorded DIGEST, found DIGEST",
        "system of the month, summed: recorded [8], found [0,8] for numpy",
    ],
    "UPDATE monthly_downloads SET system = '[3464,9]' WHERE with_mirrors = 3473": [
        "digest of the month: recorded DIGEST, found DIGEST",
        f"system of the month, summed: {_SUMS} for __all__",
    ],
    """UPDATE stored_months SET categories = '{"system":["windows","linux"]}'""": [
        "digest of the month: recorded DIGEST, found DIGEST",
    ],
    "UPDATE top_packages SET downloads = 9 WHERE period = 'all' AND rank = 2": [
        "top of all, rank 2: recorded numpy 9, found numpy 8",
    ],
    "DELETE FROM stored_months": [
        "rows of a month that is not stored: recorded 0, found 3",
    ],
}


@pytest.mark.parametrize("change", _CHANGES)
async def test_verification_of_months(engine: AsyncEngine, change: str) -> None:
    days = month_of_days(JUNE)
    days[JUNE].append(downloads("numpy", {"3.12": 7, "null": 1}, {"windows": 8}))
    await store_days(engine, days)
    await roll_up_now(engine)
    assert await differences(engine) == []
    await corrupt(engine, change)
    found = [re.sub("[0-9a-f]{64}", "DIGEST", one) for one in await differences(engine)]
    assert [one.partition(" ")[2] for one in found] == _CHANGES[change]


Truth = dict[date, dict[str, tuple[int, int]]]


def add_up(truth: Truth, days: Days) -> None:
    for day, rows in days.items():
        of_month = truth.setdefault(month_of(day), {})
        for name, (with_mirrors, without_mirrors) in sums({day: rows}).items():
            before = of_month.get(name, (0, 0))
            of_month[name] = (before[0] + with_mirrors, before[1] + without_mirrors)


def ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the packages with downloads, those with the most first."""
    names = {name for name, count in counts.items() if count} - {ALL_PACKAGES}
    order = sorted(names, key=lambda name: (-counts[name], name))
    return [(name, counts[name]) for name in order]


def made_up(random: Random, first: date, count: int) -> Days:
    """Return rows of up to `count` days. In the last year few days are missing, and before many, so
    that the test is quick.
    """
    return {
        day: [
            downloads(name, random.randrange(9), mirrors=random.randrange(1, 3))
            for name in random.sample(["flask", "numpy", "rare", "once", "six"], 3)
        ]
        for day in (first + timedelta(days=passed) for passed in range(count))
        if day < NOW.date() and random.random() < (0.97 if day.year == NOW.year else 0.3)
    }


async def test_any_split_into_months_and_window_adds_up(engine: AsyncEngine) -> None:
    """Three years of few packages, with 30 days of retention and jobs at any time: the months and
    the days of no month add up to all days, and the ranks are those of the sums.
    """
    random = Random(2018)
    truth: Truth = {}
    day = date(2023, 11, 20)
    while day < NOW.date():
        count = random.choice([9, 31, 45])
        days = made_up(random, day, count)
        day += timedelta(days=count)
        await store_days(engine, days)
        add_up(truth, days)
        await roll_up_now(engine, retention_days=30, now=NOW)
        await expire_now(engine, 30)
    stored, records = await stored_totals(engine), await stored_months(engine)
    published = await published_days(engine)
    assert len(published) < 62
    assert len(stored) >= 36
    assert truth.keys() - stored.keys() <= set(map(month_of, published))
    totals: Counter[str] = Counter()
    for month, of_month in stored.items():
        assert of_month == truth[month]
        without_mirrors = {name: counts[1] for name, counts in of_month.items()}
        totals.update(without_mirrors)
        ranks = await ranks_of(engine, month)
        assert sorted(filter(ranks.get, ranks), key=lambda name: ranks[name] or 0) == [
            name for name, _ in ranked(without_mirrors)
        ]
        record = records[month]
        assert record.days + len(record.missing_days) == len(days_of_month(month))
        assert record.packages == len(of_month) - 1
    assert await top_of_months(engine) == ranked(totals)
    assert await differences(engine) == []
    # There is one row per package and month, for five packages and `__all__`.
    assert sum(map(len, stored.values())) <= 6 * len(stored)
