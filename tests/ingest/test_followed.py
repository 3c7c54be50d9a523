"""Instances that follow only some packages: changes of the names, and what is plausible."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect
from app.db.repositories.downloads_repository import DownloadsRepository, SeriesRange
from app.db.repositories.months_repository import MonthsRepository
from app.domain.downloads import PackageDownloads, PublishedDay, Window
from app.domain.months import Month, days_of_month
from app.errors import HeldDayError, IngestError, MixedDataError, ShrunkDayError
from app.ingest.followed import forget_unfollowed
from app.ingest.month_import import plan_months
from app.ingest.plan import days_to_backfill, plan
from app.ingest.policy import PublishPolicy, policy_of
from app.ingest.publish import PublishContext, publish_held, publish_plausible_held
from app.ingest.rollup import months_of, roll_up, roll_up_due
from app.ingest.runs import published_days
from app.ingest.scheduler import run_ingest_job
from app.ingest.sources.sample import SampleSource
from app.ingest.verification import days_to_verify, verify
from app.settings import IngestSource, Settings
from tests.clock import NOW, ManualClock
from tests.days import (
    FORCED,
    POLICY,
    RETENTION_DAYS,
    GivenSource,
    days_ago,
    downloads,
    ingest,
    overall,
    rows_of,
)

NAMES = ("a", "b", "c")


def _settings(*packages: str, **changes: object) -> Settings:
    return Settings().model_copy(
        update={"ingest_packages": packages, "ingest_source": IngestSource.SAMPLE, **changes}
    )


def _policy(*packages: str) -> PublishPolicy:
    return policy_of(_settings(*packages))


async def _publish(
    engine: AsyncEngine, day: date, rows: Sequence[PackageDownloads], policy: PublishPolicy
) -> PublishedDay:
    result = await ingest(engine, GivenSource({day: rows}), day, policy)
    assert isinstance(result, PublishedDay)
    return result


async def _assert_valid(engine: AsyncEngine) -> None:
    days = await days_to_verify(engine, None)
    found = [one async for step in verify(engine, days, packages=True) for one in step.differences]
    assert found == []


async def test_names_are_added_and_removed(
    engine: AsyncEngine, database_url: str, clock: ManualClock
) -> None:
    """After each change, all days have the figures of the same days of all packages."""
    served = {"retention_days": 30, "ingest_max_days_per_run": 4}
    source = SampleSource()
    for packages in (("flask", "requests"), ("numpy", "requests"), ("numpy",), ("flask", "numpy")):
        await run_ingest_job(_settings(*packages, **served), database_url, clock)
        days = (await DownloadsRepository(engine, 30).published_days())[-4:]
        assert {day.followed for day in days} == {" ".join(packages)}
        for day in (days[0].day, days[-1].day):
            expected = {row.package: row for row in await rows_of(await source.read(day))}
            for name in ("flask", "numpy", "requests"):
                series = await overall(engine, name, 30)
                if name not in packages:
                    assert series is None
                else:
                    assert series
                    assert (day, expected[name].without_mirrors) in series["without_mirrors"]
        await _assert_valid(engine)


async def test_removing_a_name_reads_no_day_again(engine: AsyncEngine) -> None:
    days = [days_ago(ago) for ago in range(3)]
    for day in days:
        rows = [downloads(name, 10) for name in NAMES]
        await _publish(engine, day, rows, replace(FORCED, followed="a b c"))
    policy = _policy("a", "c")
    before = await DownloadsRepository(engine, RETENTION_DAYS).publication()
    await forget_unfollowed(PublishContext(engine, policy, lambda: NOW))
    published = {
        day.day: day for day in await DownloadsRepository(engine, RETENTION_DAYS).published_days()
    }
    assert {(day.packages, day.downloads, day.followed) for day in published.values()} == {
        (2, 20, "a c")
    }
    assert days_to_backfill(published, days[-1], days[0], now=NOW, policy=policy) == []
    after = await DownloadsRepository(engine, RETENTION_DAYS).publication()
    assert before
    assert after
    assert before.version != after.version
    assert before.published_at < after.published_at
    await _assert_valid(engine)


async def test_removing_a_name_from_a_month_without_days(engine: AsyncEngine) -> None:
    """The month then equals one in which the name was never followed."""
    days = days_of_month(date(2026, 6, 1))
    stored = []
    for names in ("a b", "a"):
        async with engine.begin() as connection:
            for table in ("stored_months", "monthly_downloads"):
                await connection.execute(text(f"DELETE FROM {table}"))
        rows = [
            downloads(name, {version: 10, "null": 1})
            for name, version in (("a", "3.12"), ("b", "3.9"))
            if name in names
        ]
        for day in days:
            await _publish(engine, day, rows, replace(FORCED, followed=names))
        context = PublishContext(engine, replace(FORCED, followed="a"), lambda: NOW)
        (month,) = months_of(await published_days(engine))
        await roll_up(context, month)
        if names == "a b":
            async with engine.begin() as connection:
                # The name is removed from the month, as if its days had been dropped.
                await connection.execute(text("UPDATE stored_months SET days_digest = NULL"))
            await forget_unfollowed(context)
            await _assert_valid(engine)
        async with connect(engine) as connection:
            (one,) = (await MonthsRepository(connection).stored()).values()
        stored.append((one.digest, one.categories, one.downloads, one.packages))
    assert stored[0] == stored[1]


async def test_earlier_days_and_months_are_unknown_for_an_added_name(engine: AsyncEngine) -> None:
    """Days before the window are not read again, so the month that it cuts lacks the name."""
    june, july = days_of_month(date(2026, 6, 1)), days_of_month(date(2026, 7, 1))
    rows = [downloads("a", 100)]
    for day in june:
        await _publish(engine, day, rows, replace(FORCED, followed="a"))
    for day in [*june[-5:], *july]:
        await _publish(engine, day, [*rows, downloads("b", 70)], replace(FORCED, followed="a b"))
    policy = replace(FORCED, followed="a b", retention_days=36)
    context = PublishContext(engine, policy, lambda: NOW)
    repository = DownloadsRepository(engine, 36)
    months = [month async for month in roll_up_due(context, _settings("a", "b"))]
    assert [(month.days, month.followed) for month in months if month.month == june[0]] == [
        (30, "a")
    ]
    publication = await repository.publication()
    assert publication
    found = {
        name: [
            (one.without_mirrors, publication.history_of([name]).days_by_month[one.month])
            for one in await repository.history(name, publication.history_of([name]))
        ]
        for name in ("a", "b")
    }
    assert found == {"a": [(3_000, 30), (3_100, 31)], "b": [(350, 5), (2_170, 31)]}
    span = SeriesRange(Window(june[20], july[0]), june[-5])
    series = (await repository.overall(["b"], span, with_days=True))["b"]
    assert [*series.published_days] == [*june[-5:], july[0]]
    async with connect(engine) as connection:
        stored = await MonthsRepository(connection).stored()
    published = await published_days(engine)
    june_only = (Month(june[0]), Month(june[0]))
    planned = plan_months(june_only, published, stored, now=NOW, policy=policy)
    assert planned.to_import == [june_only[0]]
    await _assert_valid(engine)


async def test_adding_a_name_makes_all_days_due(engine: AsyncEngine) -> None:
    days = [days_ago(ago) for ago in range(2)]
    for day in days:
        await _publish(engine, day, [downloads("a", 10)], replace(FORCED, followed="a"))
    published = {
        day.day: day for day in await DownloadsRepository(engine, RETENTION_DAYS).published_days()
    }
    for packages, missing in ((("a",), 28), (("a", "b"), 30)):
        settings = _settings(*packages, retention_days=30)
        planned = plan(settings, NOW, published, {}, {})
        assert len(planned.new) + len(planned.older) == missing


async def test_all_and_some_packages_are_not_mixed(engine: AsyncEngine) -> None:
    rows = [downloads("a", 10)]
    await _publish(engine, days_ago(0), rows, replace(FORCED, followed="a"))
    with pytest.raises(MixedDataError, match=r"figures of some packages.*: set INGEST_PACKAGES"):
        await _publish(engine, days_ago(1), rows, FORCED)


async def test_some_packages_are_not_added_to_all(engine: AsyncEngine) -> None:
    rows = [downloads("a", 10)]
    await _publish(engine, days_ago(0), rows, FORCED)
    followed = replace(FORCED, followed="a")
    with pytest.raises(MixedDataError, match=r"figures of all packages.*: unset INGEST_PACKAGES"):
        await _publish(engine, days_ago(1), rows, followed)
    await forget_unfollowed(PublishContext(engine, followed, lambda: NOW))
    assert await overall(engine, "__all__")


async def test_followed_packages_replace_a_sample(engine: AsyncEngine) -> None:
    source = GivenSource({days_ago(0): [downloads("x", 5)]}, name="sample")
    await ingest(engine, source, days_ago(0))
    policy = replace(_policy("a"), replace_sample=True)
    await _publish(engine, days_ago(1), [downloads("a", 10)], policy)
    (day,) = await DownloadsRepository(engine, RETENTION_DAYS).published_days()
    assert (day.day, day.followed) == (days_ago(1), "a")


@pytest.mark.parametrize(
    ("usual", "counts", "is_plausible"),
    [
        # One of them drops, another grows.
        ((1_000, 1_000, 1_000), (0, 900, 1_100), True),
        ((1_000, 1_000, 1_000), (1_000, 1_000, 90_000), True),
        # All of them drop.
        ((1_000, 1_000, 1_000), (100, 100, 100), False),
        ((1_000, 1_000, 1_000), (0, 0, 0), False),
        ((500, 0, 0), (0, 0, 0), False),
        # Packages with so few downloads may have none.
        ((10, 5, 0), (0, 0, 0), True),
        ((10, 5, 0), (1, 0, 0), True),
        ((10, 5, 0), (90, 50, 90), True),
    ],
)
async def test_plausible_days(
    engine: AsyncEngine, usual: Sequence[int], counts: Sequence[int], is_plausible: bool
) -> None:
    policy = _policy(*NAMES)

    def rows(downloaded: Sequence[int]) -> list[PackageDownloads]:
        return [downloads(name, n) for name, n in zip(NAMES, downloaded, strict=True) if n]

    for ago in range(1, 5):
        await _publish(engine, days_ago(ago), rows(usual), policy)
    if is_plausible:
        published = await _publish(engine, days_ago(0), rows(counts), policy)
        assert published.downloads == sum(counts)
        assert published.suspect_reason is None
    else:
        with pytest.raises(HeldDayError, match="on the days around it"):
            await _publish(engine, days_ago(0), rows(counts), policy)
    await _assert_valid(engine)


async def test_an_outage_is_not_a_new_level(engine: AsyncEngine) -> None:
    """Days without downloads are held, however many there are and however often they are read."""
    policy = _policy("a")
    for ago in range(3, 30):
        await _publish(engine, days_ago(ago), [downloads("a", 1_000)], policy)
    for hours in (0, 7):
        context = PublishContext(engine, policy, lambda: NOW + timedelta(hours=hours))  # noqa: B023
        for ago in (2, 1, 0):
            with pytest.raises(HeldDayError):
                await ingest(engine, GivenSource({}), days_ago(ago), policy, context.clock)
        assert [day async for day in publish_plausible_held(context)] == []


async def test_a_partial_change_of_the_definition_is_judged(engine: AsyncEngine) -> None:
    """On 24 August 2026, a day of mixed definitions, downloads must not vanish."""
    policy = _policy("a")
    for day in range(10, 24):
        await _publish(engine, date(2026, 8, day), [downloads("a", 1_000)], policy)
    with pytest.raises(HeldDayError):
        await _publish(engine, date(2026, 8, 24), [], policy)


async def test_worse_rows_do_not_replace_good_ones(engine: AsyncEngine) -> None:
    """After a name is added, the downloads of the other packages must not shrink."""
    day = days_ago(0)
    await _publish(engine, day, [downloads("a", 1_000)], _policy("a"))
    policy = _policy("a", "b")
    for only_if_changed in (False, True):
        changed = replace(policy, only_if_changed=only_if_changed)
        with pytest.raises(ShrunkDayError, match=r"has 3 downloads .* 1,000 are published"):
            await _publish(engine, day, [downloads("a", 3), downloads("b", 5_000)], changed)
    published = await _publish(engine, day, [downloads("a", 1_000), downloads("b", 5)], policy)
    assert (published.downloads, published.followed) == (1_005, "a b")


async def test_held_days_of_other_packages_are_not_published(engine: AsyncEngine) -> None:
    day = days_ago(0)
    source = GivenSource({day: [downloads("a", 5), downloads("y", -1)]})
    with pytest.raises(HeldDayError):
        await ingest(engine, source, day, POLICY)
    context = PublishContext(engine, replace(_policy("a"), force=True), lambda: NOW)
    assert await publish_held(context, day) is None
    await forget_unfollowed(context)
    assert await publish_held(replace(context, policy=FORCED), day) is None


async def test_most_packages_are_only_deleted_by_force(engine: AsyncEngine) -> None:
    day = days_ago(0)
    rows = [downloads(name, 10) for name in NAMES]
    await _publish(engine, day, rows, replace(FORCED, followed="a b c"))
    context = PublishContext(engine, _policy("a", "d"), lambda: NOW)
    with pytest.raises(IngestError, match=r"only 1 of the 3 packages.*backfill --force"):
        await forget_unfollowed(context)
    assert await overall(engine, "b")
    await forget_unfollowed(context, is_forced=True)
    assert await overall(engine, "a")
    assert await overall(engine, "b") is None


async def test_a_day_of_all_packages_is_never_empty(engine: AsyncEngine) -> None:
    with pytest.raises(IngestError, match="no rows"):
        await _publish(engine, days_ago(0), [], FORCED)
