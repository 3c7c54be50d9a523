"""Tests of the ingest of a day, from its source to the answers, on a real database."""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.advisory_lock import HeldLock, LockKey, lock_for_transaction
from app.db.engine import connect, create_engine
from app.db.partitions import ensure_partition
from app.db.repositories import ingest_repository
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.ingest_repository import IngestRepository, StagedRow, counts_text
from app.db.repositories.verification_repository import VerificationRepository
from app.db.tables import daily_downloads, packages
from app.domain.breakdowns import (
    COLUMNS_OF_ONE_PACKAGE,
    MAX_OPEN_CATEGORIES,
    OPTIONAL_COLUMNS,
    PYTHON_MAJOR,
    PYTHON_MINOR,
    REQUIRED_COLUMNS,
    SYSTEM,
)
from app.domain.clock import Clock
from app.domain.downloads import (
    PackageDownloads,
    Partition,
    PublishedDay,
    RecentDownloads,
    UnparsedDownloads,
)
from app.domain.events import ARTIFACTS_SINCE, CountedFiles
from app.domain.months import Period
from app.domain.package_name import ALL_PACKAGES
from app.errors import (
    DatabaseUnavailableError,
    HeldDayError,
    IngestError,
    LockLostError,
    MixedDataError,
    ShrunkDayError,
    SourceError,
)
from app.ingest import pipeline
from app.ingest.judge import has_settled
from app.ingest.publish import PublishContext, UnchangedDay, publish_held, publish_plausible_held
from app.ingest.retention import expire
from app.ingest.rows import RejectedRows, RowCheck
from app.ingest.runs import DayIngester, ingest_lock
from app.ingest.sources.sample import SampleSource
from app.ingest.sources.source import Source
from tests.clock import NOW, ManualClock
from tests.contents import everything
from tests.days import (
    FORCED,
    POLICY,
    RETENTION_DAYS,
    GivenSource,
    by_category,
    days_ago,
    downloads,
    fault_of,
    ingest,
    optional_counts,
    overall,
    publish,
)
from tests.waiting import PATIENCE_SECONDS, until


def repository(engine: AsyncEngine) -> DownloadsRepository:
    return DownloadsRepository(engine, RETENTION_DAYS)


async def test_a_published_day_is_served(engine: AsyncEngine) -> None:
    day = days_ago(0)
    published = await publish(
        engine,
        day,
        downloads("flask", {"2.7": 1, "3.9": 2, "3.10": 3, "null": 4}, {"linux": 10}, mirrors=5),
        downloads("numpy", {"3.10": 7}, {"windows": 6, "other": 1}),
    )
    assert (published.packages, published.downloads, published.source) == (2, 17, "given")

    read = repository(engine)
    assert await read.recent("flask") == RecentDownloads(10, 10, 10)
    assert await overall(engine, "flask") == {
        "with_mirrors": [(day, 15)],
        "without_mirrors": [(day, 10)],
    }
    assert await by_category(engine, "flask", PYTHON_MINOR) == {
        "2.7": [(day, 1)],
        "3.9": [(day, 2)],
        "3.10": [(day, 3)],
        "null": [(day, 4)],
    }
    assert await by_category(engine, "flask", PYTHON_MAJOR) == {
        "2": [(day, 1)],
        "3": [(day, 5)],
        "null": [(day, 4)],
    }
    assert await by_category(engine, ALL_PACKAGES, SYSTEM) == {
        "linux": [(day, 10)],
        "other": [(day, 1)],
        "windows": [(day, 6)],
    }
    assert await overall(engine, ALL_PACKAGES) == {
        "with_mirrors": [(day, 22)],
        "without_mirrors": [(day, 17)],
    }
    assert await read.recent(ALL_PACKAGES) == RecentDownloads(17, 17, 17)


async def test_ingesting_a_day_twice_changes_nothing(engine: AsyncEngine) -> None:
    rows = [downloads("flask", 10, mirrors=2), downloads("numpy", {"3.9": 1, "null": 2})]
    await publish(engine, days_ago(1), downloads("flask", 3))
    await publish(engine, days_ago(0), *rows)
    before = await everything(engine)
    await publish(engine, days_ago(0), *reversed(rows))
    assert await everything(engine) == before


async def test_replacing_a_day_replaces_just_that_day(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(1), downloads("flask", 1), downloads("once", 5))
    await publish(engine, days_ago(0), downloads("flask", 2), downloads("once", 6))
    await publish(engine, days_ago(2), downloads("flask", 4), downloads("numpy", 9))
    await publish(engine, days_ago(0), downloads("flask", 8))
    await publish(engine, days_ago(1), downloads("flask", 1))

    read = repository(engine)
    assert await read.recent("flask") == RecentDownloads(8, 13, 13)
    assert await read.recent("once") is None, "both its days were replaced without it"
    assert await overall(engine, "once") is None
    assert await read.recent("numpy") == RecentDownloads(0, 9, 9)
    assert await read.recent(ALL_PACKAGES) == RecentDownloads(8, 22, 22)


async def test_a_package_that_a_replaced_day_no_longer_has_keeps_its_other_days(
    engine: AsyncEngine, connection: AsyncConnection
) -> None:
    await publish(engine, days_ago(40), downloads("flask", 1), downloads("rare", 5))
    await publish(engine, days_ago(0), downloads("flask", 2), downloads("rare", 6))
    await publish(engine, days_ago(0), downloads("flask", 2))
    last_seen = await connection.scalar(
        select(packages.c.last_seen).where(packages.c.name == "rare")
    )
    assert last_seen == days_ago(40)
    assert await repository(engine).recent("rare") == RecentDownloads(0, 0, 0)


_AGO = [0, 1, 6, 7, 29, 30]
_ORDERS = [
    _AGO,
    _AGO[::-1],
    *(Random(seed).sample(_AGO, len(_AGO)) for seed in range(8)),
]


@pytest.mark.parametrize("order", _ORDERS, ids=str)
async def test_recent_is_right_after_any_order(engine: AsyncEngine, order: list[int]) -> None:
    """Days on both sides of each period's end. 2 to the power of its place tells a day's part."""
    for ago in order:
        rows = [downloads("flask", 2**ago), downloads("rare", 1)] if ago else []
        await publish(engine, days_ago(ago), *rows, downloads("numpy", 1))
    week = 2**1 + 2**6
    month = week + 2**7 + 2**29
    assert (await everything(engine))["packages"] == [
        (ALL_PACKAGES, days_ago(0), 1, week + 2 + 3, month + 4 + 5, 2**7 + 2, None, False),
        ("flask", days_ago(1), 0, week, month, 2**7, 1, True),
        ("numpy", days_ago(0), 1, 3, 5, 1, 2, True),
        ("rare", days_ago(1), 0, 2, 4, 1, 3, True),
    ]


@pytest.mark.parametrize("seed", range(6))
async def test_recent_is_what_the_days_add_up_to(engine: AsyncEngine, seed: int) -> None:
    """Days come in any order, with gaps, some are replaced, and packages come and go."""
    random = Random(seed)
    ago = 100
    for _ in range(14):
        # Mostly the next days, as they come, and now and then a gap or one of the days before.
        ago = max(ago - random.choice([1, 1, 1, 2, 6, 7, 8, 29, 30, 31]), 0)
        day = days_ago(min(ago + random.choice([0, 0, 0, random.randrange(40)]), 100))
        names = random.sample(["flask", "numpy", "rare", "once"], random.randrange(1, 5))
        await publish(
            engine, day, *(downloads(one, random.randrange(9), mirrors=1) for one in names)
        )
        async with connect(engine) as connection:
            repository = VerificationRepository(connection)
            assert await repository.differences_of_figures() == []
            assert await repository.differences_of_last_seen() == []


async def test_a_publish_becomes_visible_at_once(engine: AsyncEngine) -> None:
    """Readers that ask all along see the figures of before, then those of after."""
    counts = (2, 10, 100, 1000)
    read = repository(engine)
    seen = set()
    replaced = asyncio.Event()

    async def look() -> None:
        recent, series = await read.recent(ALL_PACKAGES), await overall(engine, ALL_PACKAGES)
        assert recent
        assert series
        seen.update({recent.last_day, series["without_mirrors"][0][1]})

    async def look_all_along() -> None:
        while not replaced.is_set():
            await look()

    async def replace() -> None:
        for count in counts[1:]:
            await publish(engine, days_ago(0), *(downloads(f"p{n}", 1) for n in range(count)))
        replaced.set()

    await publish(engine, days_ago(0), downloads("p0", 1), downloads("p1", 1))
    await look()
    await asyncio.gather(look_all_along(), replace())
    await look()
    assert {2, 1000} <= seen <= set(counts)


async def test_rows_are_staged_batch_by_batch(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is asked for the next batch when one is staged."""
    steps = []
    stage = IngestRepository.stage

    async def stage_and_tell(
        self: IngestRepository, rows: Sequence[StagedRow], columns: Sequence[str]
    ) -> None:
        await stage(self, rows, columns)
        steps.append("staged")

    class TellingSource(GivenSource):
        async def _batches(self, day: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
            for row in self.days[day]:
                assert isinstance(row, PackageDownloads)
                steps.append("asked")
                yield [row]

    monkeypatch.setattr(IngestRepository, "stage", stage_and_tell)
    source = TellingSource({days_ago(0): [downloads(name, 1) for name in "abcd"]})
    await ingest(engine, source, days_ago(0))
    assert steps == ["asked", "staged"] * 4


async def test_an_interrupted_source_publishes_nothing(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    before = await everything(engine)
    source = GivenSource({days_ago(0): [downloads("flask", 9), SourceError("broke off")]})
    with pytest.raises(SourceError, match="broke off"):
        await ingest(engine, source, days_ago(0))
    assert await everything(engine) == before
    await publish(engine, days_ago(0), downloads("flask", 9))
    assert await repository(engine).recent("flask") == RecentDownloads(9, 9, 9)


async def test_a_publish_that_fails_publishes_nothing(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(1), downloads("flask", 1))
    before = await everything(engine)
    with pytest.raises(IngestError, match="a package more than once"):
        await publish(engine, days_ago(0), downloads("flask", 1), downloads("flask", 2))
    assert await everything(engine) == before


async def test_a_publish_that_fails_at_its_end_publishes_nothing(
    engine: AsyncEngine, connection: AsyncConnection
) -> None:
    """The update of the last figures fails."""
    await publish(engine, days_ago(0), downloads("flask", 1))
    await connection.execute(text("ALTER TABLE packages ADD CHECK (last_month < 5)"))
    await connection.commit()
    before = await everything(engine)
    with pytest.raises(DBAPIError, match="last_month"):
        await publish(engine, days_ago(0), downloads("flask", 9), downloads("new", 1))
    assert await everything(engine) == before


async def test_a_day_without_rows_is_an_error(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    before = await everything(engine)
    with pytest.raises(IngestError, match=f"no rows for {days_ago(0)}"):
        await publish(engine, days_ago(0))
    with pytest.raises(IngestError, match=r"no valid rows \(1 rejected\)"):
        await publish(engine, days_ago(0), downloads("not a name", 1))
    assert await everything(engine) == before


@pytest.mark.parametrize("day", [days_ago(-1), days_ago(-1000), date(2015, 12, 31), date.min])
async def test_an_impossible_day_is_refused_before_the_source_is_queried(
    engine: AsyncEngine, day: date
) -> None:
    source = GivenSource({})
    with pytest.raises(IngestError, match=f"latest complete UTC day is {days_ago(0)}"):
        await ingest(engine, source, day)
    assert source.asked_days == []


async def test_a_day_before_the_window_is_refused(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    await publish(engine, days_ago(RETENTION_DAYS - 1), downloads("flask", 1))
    with pytest.raises(IngestError, match=f"{days_ago(RETENTION_DAYS - 1)}"):
        await publish(engine, days_ago(RETENTION_DAYS), downloads("flask", 1))


def _broken(**changes: Any) -> PackageDownloads:
    return downloads("flask", {"3.9": 5}, mirrors=1)._replace(**changes)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (_broken(package=""), "name"),
        (_broken(package="Flask"), "name"),
        (_broken(package="a" * 201), "name"),
        (_broken(package="__all__"), "name"),
        (_broken(package="a\0b"), "name"),
        (_broken(without_mirrors=-5), "number"),
        (_broken(with_mirrors=4), "number"),
        (_broken(with_mirrors=10**11 + 1), "number"),
        (downloads("flask", 0), "number"),
        (_broken(breakdowns={"python_minor": {"3.9": 4}, "system": {"linux": 5}}), "python_minor"),
        (_broken(breakdowns={"python_minor": {"3.9": 5}, "system": {}}), "system"),
        (
            _broken(breakdowns={"python_minor": {"3.9": 6, "2.7": -1}, "system": {"linux": 5}}),
            "python_minor",
        ),
    ],
)
async def test_a_malformed_row_is_rejected_and_logged(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture, row: PackageDownloads, fault: str
) -> None:
    with caplog.at_level(logging.WARNING):
        published = await publish(engine, days_ago(0), downloads("numpy", 3), row, row)
    assert published.packages == 1
    assert await repository(engine).recent(ALL_PACKAGES) == RecentDownloads(3, 3, 3)
    assert "rejected 2 rows" in caplog.text
    assert fault in caplog.text


async def test_sample_data_is_never_mixed_with_real_data(engine: AsyncEngine) -> None:
    await ingest(engine, SampleSource(), days_ago(0))
    before = await everything(engine)
    source = GivenSource({days_ago(1): [downloads("flask", 1)]})
    with pytest.raises(MixedDataError, match="--replace-sample"):
        await ingest(engine, source, days_ago(1))
    assert source.asked_days == [], "nothing is spent on a day that can't be published"
    assert await everything(engine) == before

    await ingest(engine, source, days_ago(1), replace(FORCED, replace_sample=True))
    read = repository(engine)
    assert [day.day for day in await read.published_days()] == [days_ago(1)]
    assert await read.recent("flask") == RecentDownloads(1, 1, 1)
    assert await read.recent("numpy") is None

    with pytest.raises(MixedDataError, match="the database holds real data"):
        await ingest(engine, SampleSource(), days_ago(1))


async def test_replacing_the_sample_fails_without_loss(engine: AsyncEngine) -> None:
    await ingest(engine, SampleSource(), days_ago(0))
    before = await everything(engine)
    twice = [downloads("flask", 1), downloads("flask", 1)]
    for rows, error in (([], "no rows for"), (twice, "a package more than once")):
        with pytest.raises(IngestError, match=error):
            await ingest(
                engine,
                GivenSource({days_ago(1): rows}),
                days_ago(1),
                replace(FORCED, replace_sample=True),
            )
        assert await everything(engine) == before


async def test_concurrent_sample_and_real_data_are_not_mixed(engine: AsyncEngine) -> None:
    """Both find an empty database first, and one of them has to notice the other's publish."""
    sources: list[Source] = [
        SampleSource(),
        GivenSource({days_ago(0): [downloads("flask", 1)]}),
    ]
    results = await asyncio.gather(
        *(ingest(engine, source, days_ago(0)) for source in sources),
        return_exceptions=True,
    )
    assert sorted(isinstance(result, IngestError) for result in results) == [False, True]
    assert len({day.source for day in await repository(engine).published_days()}) == 1
    assert len((await everything(engine))["packages"]) in (2, 201)


async def test_concurrent_publishes_all_count(engine: AsyncEngine) -> None:
    await asyncio.gather(
        *(publish(engine, days_ago(ago), downloads("flask", 2**ago)) for ago in range(8))
    )
    assert await repository(engine).recent("flask") == RecentDownloads(1, 2**7 - 1, 2**8 - 1)


async def test_the_digest_depends_on_the_rows_alone(engine: AsyncEngine) -> None:
    rows = [downloads("flask", {"3.9": 1, "3.10": 2}), downloads("numpy", 3)]
    first = await publish(engine, days_ago(0), *rows)
    second = await publish(engine, days_ago(1), *reversed(rows))
    assert first.digest == second.digest
    others = [
        [downloads("numpy", {"3.9": 1, "3.10": 2}), downloads("flask", 3)],
        [downloads("flask", {"3.9": 2, "3.10": 1}), downloads("numpy", 3)],
        [downloads("flask", {"3.9": 1, "3.10": 2}, {"windows": 3}), downloads("numpy", 3)],
        [downloads("flask", {"3.9": 1, "3.10": 2}, mirrors=1), downloads("numpy", 3)],
        rows[:1],
    ]
    digests = {(await publish(engine, days_ago(2), *other)).digest for other in others}
    assert len(digests | {first.digest}) == len(others) + 1


# What is judged


async def judged(
    engine: AsyncEngine,
    day: date,
    *rows: PackageDownloads,
    only_if_changed: bool = False,
    clock: Clock = lambda: NOW,
) -> PublishedDay | UnchangedDay:
    policy = replace(POLICY, only_if_changed=only_if_changed)
    return await ingest(engine, GivenSource({day: rows}), day, policy, clock)


async def test_a_day_that_looks_wrong_is_held_with_its_rows(
    engine: AsyncEngine, clock: ManualClock
) -> None:
    """The rows that were read last are published."""
    await publish(engine, days_ago(7), downloads("flask", 100))
    before = await everything(engine)
    read = repository(engine)
    same_since = []
    for count in (20, 30, 30, 10):
        clock.advance(hours=1)
        with pytest.raises(HeldDayError, match=f"{days_ago(0)} is held"):
            await judged(engine, days_ago(0), downloads("flask", count, mirrors=3), clock=clock)
        (held,) = await read.held_days()
        assert (held.downloads, held.downloads_with_mirrors) == (count, count + 3)
        same_since.append(held.same_since)
        now = await everything(engine)
        assert [row[1:4] for row in now["held rows"]] == [("flask", count + 3, count)]
        assert {name: rows for name, rows in now.items() if not name.startswith("held")} == {
            name: rows for name, rows in before.items() if not name.startswith("held")
        }
    assert held.readings == 4
    assert held.held_since == same_since[0] < held.read_at
    assert same_since[1] == same_since[2]
    assert len(set(same_since)) == 3

    published = await judged(engine, days_ago(0), downloads("flask", 90))
    assert isinstance(published, PublishedDay)
    assert not published.suspect_reason
    assert await read.held_days() == []
    assert (await everything(engine))["held rows"] == []
    assert await read.recent("flask") == RecentDownloads(90, 90, 190)


async def test_a_held_day_is_never_unchanged_since_a_future_time(engine: AsyncEngine) -> None:
    """Otherwise a day that was read while a clock was ahead could not settle."""
    await publish(engine, days_ago(7), downloads("flask", 100))
    for clock in (ManualClock(NOW + timedelta(days=400)), ManualClock(NOW)):
        with pytest.raises(HeldDayError):
            await judged(engine, days_ago(0), downloads("flask", 20), clock=clock)
    (held,) = await repository(engine).held_days()
    assert held.same_since == held.read_at == NOW


async def held_published(
    engine: AsyncEngine, day: date, *, force: bool = False
) -> PublishedDay | None:
    return await publish_held(
        PublishContext(engine, replace(POLICY, force=force), lambda: NOW), day
    )


async def test_force_publishes_held_rows(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(7), downloads("flask", 100))
    rows = [downloads("flask", {"3.9": 1, "null": 2}, mirrors=1), downloads("new", 4)]
    with pytest.raises(HeldDayError):
        await judged(engine, days_ago(0), *rows)
    (held,) = await repository(engine).held_days()

    assert await held_published(engine, days_ago(0)) is None
    forced = await held_published(engine, days_ago(0), force=True)
    assert forced
    assert (forced.packages, forced.downloads, forced.source) == (2, 7, "given")
    assert (forced.suspect_reason, forced.checked_at) == (held.reason, held.read_at)
    assert await held_published(engine, days_ago(0), force=True) is None, "nothing is held any more"
    assert await by_category(engine, "flask", PYTHON_MINOR) == {
        "3.12": [(days_ago(7), 100)],
        "3.9": [(days_ago(0), 1)],
        "null": [(days_ago(0), 2)],
    }
    # As if it had been published at once.
    again = await publish(engine, days_ago(0), *rows)
    assert again.digest == forced.digest


async def test_a_day_with_wrong_rows_is_held_without_them(engine: AsyncEngine) -> None:
    rows = [downloads(f"p{number}", 1) for number in range(9)]
    wrong = [_broken(without_mirrors=4), _broken(without_mirrors=3)]
    message = r"2 rows are wrong: python_minor does not add up to the downloads \(5\), such as that"
    with pytest.raises(HeldDayError, match=message):
        await judged(engine, days_ago(0), *rows, *wrong)
    assert await repository(engine).publication() is None
    assert await held_published(engine, days_ago(0)) is None
    forced = await held_published(engine, days_ago(0), force=True)
    assert forced
    assert (forced.packages, forced.suspect_reason) == (9, None)
    # Names that are none come every day, and say nothing against the others.
    published = await judged(engine, days_ago(1), *rows, _broken(package="a b"))
    assert isinstance(published, PublishedDay)


async def test_held_rows_of_a_published_day_are_deleted_when_the_source_is_corrected(
    engine: AsyncEngine,
) -> None:
    """For a while, the source had three times as many downloads."""
    for ago in (0, 7):
        await publish(engine, days_ago(ago), downloads("flask", 100))
    before = await everything(engine)
    for only_if_changed in (True, False):
        with pytest.raises(HeldDayError):
            await judged(engine, days_ago(0), downloads("flask", 300), only_if_changed=True)
        assert len(await repository(engine).held_days()) == 1
        with suppress(ShrunkDayError):
            await judged(
                engine, days_ago(0), downloads("flask", 99), only_if_changed=only_if_changed
            )
        assert await everything(engine) == before


async def test_a_published_day_is_not_replaced_by_fewer_downloads(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(0), downloads("flask", 100, mirrors=10))
    before = await everything(engine)
    with pytest.raises(ShrunkDayError, match="109 downloads with mirrors now, and 110 are publ"):
        await judged(engine, days_ago(0), downloads("flask", 100, mirrors=9))
    unchanged = await judged(
        engine, days_ago(0), downloads("flask", 100, mirrors=9), only_if_changed=True
    )
    assert str(unchanged) == f"unchanged {days_ago(0)}: 1 packages, 100 downloads"
    assert await everything(engine) == before
    grown = await judged(
        engine, days_ago(0), downloads("flask", 101, mirrors=10), only_if_changed=True
    )
    assert isinstance(grown, PublishedDay)
    forced = await publish(engine, days_ago(0), downloads("flask", 5))
    assert forced.downloads == 5


async def test_real_days_are_not_compared_with_the_sample(engine: AsyncEngine) -> None:
    for ago in (0, 7):
        await ingest(engine, SampleSource(), days_ago(ago))
    source = GivenSource({days_ago(0): [downloads("flask", 1)]})
    published = await ingest(engine, source, days_ago(0), replace(POLICY, replace_sample=True))
    assert isinstance(published, PublishedDay)


# What is checked before it is read again


def _given(day: date, count: int, rows: int) -> GivenSource:
    partition = Partition(rows, NOW - timedelta(days=1))
    return GivenSource({day: [downloads("flask", count)]}, partitions={day: partition})


CHECKED = replace(POLICY, only_if_changed=True)


async def test_a_held_day_settles_by_checks_that_read_nothing(
    engine: AsyncEngine, clock: ManualClock
) -> None:
    """Each check counts as a reading with the same result."""
    for ago in range(1, 29):
        await publish(engine, days_ago(ago), downloads("flask", 100))
    day = days_ago(0)
    source = _given(day, 300, rows=1000)
    with pytest.raises(HeldDayError) as first:
        await ingest(engine, source, day, CHECKED, clock)
    before = await everything(engine)
    clock.advance(hours=6)
    with pytest.raises(HeldDayError) as second:
        await ingest(engine, source, day, CHECKED, clock)
    assert second.value.reason == first.value.reason
    assert source.asked_days == [day]
    assert await everything(engine) == before
    (held,) = await repository(engine).held_days()
    assert (held.readings, held.read_at) == (2, clock())
    assert has_settled(held)
    assert held.partition == source.partitions[day]
    # Without the policy it is read in any case, and so it is once it has changed.
    for policy, rows in ((POLICY, 1000), (CHECKED, 1001)):
        changed = _given(day, 300, rows)
        with pytest.raises(HeldDayError):
            await ingest(engine, changed, day, policy, clock)
        assert changed.asked_days == [day]


async def test_a_held_day_with_rows_that_were_wrong_is_read_again(engine: AsyncEngine) -> None:
    """Although its partition is unchanged: a later version may read those rows."""
    day = days_ago(0)
    source = _given(day, 9, rows=1000)
    source.days = {day: [*source.days[day], _broken(without_mirrors=4)]}
    for asked in (1, 2):
        with pytest.raises(HeldDayError, match="rows are wrong"):
            await ingest(engine, source, day, CHECKED)
        assert len(source.asked_days) == asked
    published = await ingest(engine, _given(day, 9, rows=1000), day, CHECKED)
    assert isinstance(published, PublishedDay)


class _ByArtifacts(GivenSource):
    def counted_files(self, _: date) -> CountedFiles:
        return CountedFiles.ARTIFACTS


async def test_a_smaller_reading_by_an_equal_definition_does_not_replace_a_day(
    engine: AsyncEngine,
) -> None:
    """The rules differ only in what they count of days before the change."""
    day = days_ago(0)
    assert day > ARTIFACTS_SINCE
    full = _given(day, 100, rows=1000)
    await ingest(engine, full, day)
    before = await everything(engine)
    smaller = {day: [downloads("flask", 60)]}
    unchanged = _ByArtifacts(smaller, partitions=full.partitions)
    assert isinstance(await ingest(engine, unchanged, day, CHECKED), UnchangedDay)
    assert unchanged.asked_days == []
    with pytest.raises(ShrunkDayError):
        await ingest(engine, _ByArtifacts(smaller), day, POLICY)
    assert await everything(engine) == before


@dataclass
class _AsksWhoWaits(GivenSource):
    engine: AsyncEngine | None = None
    open_transactions: int | None = None

    async def partition(self, day: date) -> Partition | None:
        assert self.engine
        async with connect(self.engine) as connection:
            found = await connection.execute(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
                )
            )
            self.open_transactions = found.scalar_one()
        return await GivenSource.partition(self, day)


async def test_no_transaction_is_open_while_a_partition_is_checked(
    engine: AsyncEngine,
) -> None:
    day = days_ago(0)
    source = _AsksWhoWaits({day: [downloads("flask", 1)]}, engine=engine)
    await ingest(engine, source, day, CHECKED)
    assert source.open_transactions == 0


async def test_no_check_is_recorded_once_the_lock_is_lost(
    engine: AsyncEngine, clock: ManualClock
) -> None:
    day = days_ago(0)
    source = _given(day, 9, rows=1000)
    await ingest(engine, source, day, CHECKED, clock)
    (before,) = await repository(engine).published_days()
    clock.advance(hours=6)
    lost = HeldLock(LockKey.INGEST, process=0)
    with pytest.raises(LockLostError):
        await pipeline.read_and_publish(PublishContext(engine, CHECKED, clock, lost), source, day)
    assert await repository(engine).published_days() == [before]


async def test_a_forced_day_has_the_partition_that_was_seen_when_it_was_read(
    engine: AsyncEngine, clock: ManualClock
) -> None:
    await publish(engine, days_ago(7), downloads("flask", 100))
    day = days_ago(0)
    source = _given(day, 30, rows=1000)
    with pytest.raises(HeldDayError):
        await ingest(engine, source, day, CHECKED, clock)
    forced = await held_published(engine, day, force=True)
    assert forced
    assert forced.partition == source.partitions[day]
    assert forced.suspect_reason
    assert isinstance(await ingest(engine, source, day, CHECKED, clock), UnchangedDay)
    assert source.asked_days == [day]


async def test_a_suspect_day_is_replaced_by_fewer_downloads_if_these_are_plausible(
    engine: AsyncEngine,
) -> None:
    """The source had counted everything three times."""
    for ago in range(1, 29):
        await publish(engine, days_ago(ago), downloads("flask", 100))
    day = days_ago(0)
    for policy in (CHECKED, POLICY):
        published = await publish(engine, day, downloads("flask", 300))
        assert published.suspect_reason
        # Still too much, and less than is published.
        with suppress(ShrunkDayError):
            unchanged = await ingest(engine, _given(day, 290, rows=3), day, policy)
            assert isinstance(unchanged, UnchangedDay)
        corrected = await ingest(engine, _given(day, 101, rows=4), day, policy)
        assert isinstance(corrected, PublishedDay)
        assert (corrected.downloads, corrected.suspect_reason) == (101, None)


async def test_each_reading_updates_the_suspect_days(engine: AsyncEngine) -> None:
    """The first day of an empty database has nothing to be compared with."""

    async def suspects() -> list[date]:
        days = await repository(engine).published_days()
        publication = await repository(engine).publication()
        assert publication
        found = [day.day for day in days if day.suspect_reason]
        assert publication.suspect_days == len(found)
        return found

    await publish(engine, days_ago(0), downloads("flask", 3))
    assert await suspects() == []
    for ago in range(1, 9):
        with suppress(HeldDayError):
            await judged(engine, days_ago(ago), downloads("flask", 1000))
        assert await suspects() == [days_ago(0)]
    # The retention at the end of each job does so too, because the limits may be others.
    for least, expected in ((0, []), (0.2, [days_ago(0)])):
        thresholds = replace(POLICY.thresholds, min_step_ratio=least, max_step_ratio=1e6)
        thresholds = replace(thresholds, min_downloads_ratio=0) if not least else POLICY.thresholds
        await expire(engine, replace(POLICY, thresholds=thresholds), NOW)
        assert await suspects() == expected
    while [
        day for day in await repository(engine).held_days() if await held_published(engine, day.day)
    ]:
        pass
    assert await suspects() == [days_ago(0)]
    await publish(engine, days_ago(0), downloads("flask", 1000))
    assert await suspects() == []


async def test_a_backfill_that_begins_in_an_outage_publishes_the_normal_days(
    engine: AsyncEngine,
) -> None:
    lossy = {days_ago(ago): [downloads("flask", 3)] for ago in range(15)}
    normal = {days_ago(ago): [downloads("flask", 3000)] for ago in range(15, 45)}
    source = GivenSource({**lossy, **normal})
    async with ingest_lock(engine) as lock:
        async for _ in DayIngester(
            PublishContext(engine, POLICY, lambda: NOW, lock), source
        ).ingest(source.days):
            pass
        async for _ in publish_plausible_held(PublishContext(engine, POLICY, lambda: NOW, lock)):
            pass
    held = {day.day for day in await repository(engine).held_days()}
    days = await repository(engine).published_days()
    suspect = {day.day for day in days if day.suspect_reason}
    assert held | suspect == set(lossy)
    assert {day.day for day in days} - suspect == set(normal)


# Who is in whose way


async def test_creating_a_month_blocks_no_reader_and_waits_for_none(
    engine: AsyncEngine, connection: AsyncConnection
) -> None:
    """One reader began before and does not end, another begins before the commit."""
    await publish(engine, days_ago(0), downloads("flask", 1))
    async with connect(engine) as reader:
        await reader.execute(select(daily_downloads))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ensure_partition(connection, days_ago(40))
            assert await overall(engine, "flask")
            await connection.commit()
            await publish(engine, days_ago(70), downloads("flask", 1))


async def test_a_lock_timeout_is_retried(
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    quick_retries: None,
) -> None:
    """The source is not asked a second time."""
    monkeypatch.setattr(ingest_repository, "LOCK_TIMEOUT_SECONDS", 0.2)
    source = GivenSource({days_ago(0): [downloads("flask", 1)]})
    async with connect(engine) as other:
        await lock_for_transaction(other, LockKey.PUBLISH)
        ingesting = asyncio.create_task(ingest(engine, source, days_ago(0)))
        await until(lambda: "trying again" in caplog.text)
        assert not ingesting.done()
        await other.rollback()
    assert isinstance(await ingesting, PublishedDay)
    assert source.asked_days == [days_ago(0)]


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_the_servers_default_isolation_does_not_matter(
    database_url: str, engine: AsyncEngine, isolation: str
) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text(
                f"ALTER DATABASE {make_url(database_url).database} "
                f"SET default_transaction_isolation = '{isolation}'"
            )
        )
    others = create_engine(database_url)
    await asyncio.gather(
        *(publish(others, days_ago(ago), downloads("flask", 2**ago)) for ago in range(6))
    )
    assert await repository(others).recent("flask") == RecentDownloads(1, 2**6 - 1, 2**6 - 1)
    await others.dispose()


# Breakdowns that a setting chooses


def _with_all(package: str, count: int) -> PackageDownloads:
    installers = {"pip": count - 1, "uv": 1}
    return downloads(package, count, mirrors=0, **optional_counts(count, installer=installers))


async def _stored(engine: AsyncEngine, *columns: str) -> dict[str, tuple[object, ...]]:
    async with connect(engine) as connection:
        rows = await connection.execute(
            select(packages.c.name, *(daily_downloads.c[column] for column in columns)).join(
                packages, packages.c.id == daily_downloads.c.package_id
            )
        )
        return {name: tuple(values) for name, *values in rows}


async def test_a_day_has_the_breakdowns_of_its_source(engine: AsyncEngine) -> None:
    published = await publish(engine, days_ago(0), _with_all("flask", 3), _with_all("numpy", 5))
    assert list(published.breakdowns) == list(OPTIONAL_COLUMNS)
    # Releases of different packages are not summed, and neither are other open categories.
    sums = optional_counts(8, installer={"pip": 6, "uv": 2})
    of_all = sums | dict.fromkeys(COLUMNS_OF_ONE_PACKAGE, None)
    assert await _stored(engine, *OPTIONAL_COLUMNS) == {
        "flask": tuple(optional_counts(3, installer={"pip": 2, "uv": 1}).values()),
        "numpy": tuple(optional_counts(5, installer={"pip": 4, "uv": 1}).values()),
        ALL_PACKAGES: tuple(of_all.values()),
    }


async def test_a_breakdown_that_is_not_ingested_is_null(engine: AsyncEngine) -> None:
    only_mirrors = downloads("mirrored", 0, mirrors=1, installer={})
    published = await publish(
        engine, days_ago(0), downloads("flask", 3, installer={"pip": 3}), only_mirrors
    )
    assert list(published.breakdowns) == ["installer"]
    assert await _stored(engine, "installer", "ci") == {
        "flask": ({"pip": 3}, None),
        "mirrored": ({}, None),
        ALL_PACKAGES: ({"pip": 3}, None),
    }


async def test_replacing_a_day_replaces_its_breakdowns(engine: AsyncEngine) -> None:
    """A day has the breakdowns of its last ingest, and the same state each time."""
    states = []
    for _ in range(2):
        for rows in (
            [downloads("flask", 3)],
            [downloads("flask", 3, ci={"true": 3})],
            [downloads("flask", 3, ci={"true": 3}, installer={"pip": 3})],
        ):
            for _ in range(2):
                await publish(engine, days_ago(0), *rows)
                states.append(await everything(engine))
    assert states[0:6:2] == states[1:6:2]
    assert states[:6] == states[6:]


async def test_the_digest_depends_only_on_breakdowns_that_exist(engine: AsyncEngine) -> None:
    rows = [
        downloads("flask", {"3.9": 1, "null": 2}, {"linux": 3}, mirrors=4),
        downloads("numpy", 5),
    ]
    before_there_were_any = "f1ee4ec8bedeb6db7cbc20817dfcd1d21c2cdb737fbf9df32f6f9f316e208891"
    assert (await publish(engine, days_ago(0), *rows)).digest == before_there_were_any
    digests = {before_there_were_any}
    for column, counts in optional_counts(3).items():
        row = downloads("flask", 3, mirrors=0, **{column: counts})
        published = await publish(engine, days_ago(0), row)
        digests.add(published.digest)
    assert len(digests) == 1 + len(OPTIONAL_COLUMNS)


async def test_a_held_day_keeps_its_breakdowns(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(7), _with_all("flask", 100))
    rows = [_with_all("flask", 3), _with_all("new", 1)]
    without = [downloads("flask", 3), downloads("new", 1)]
    for reading, breakdowns in ((rows, OPTIONAL_COLUMNS), (without, ()), (rows, OPTIONAL_COLUMNS)):
        for _ in range(2):
            with pytest.raises(HeldDayError):
                await judged(engine, days_ago(0), *reading)
            (held,) = await repository(engine).held_days()
            assert tuple(held.breakdowns) == breakdowns
    forced = await held_published(engine, days_ago(0), force=True)
    assert forced
    assert tuple(forced.breakdowns) == OPTIONAL_COLUMNS
    published = await everything(engine)
    # As if it had been published at once.
    await publish(engine, days_ago(0), *rows)
    again = await everything(engine)
    assert (again["rows"], again["packages"]) == (published["rows"], published["packages"])


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (downloads("flask", 3), "installer is missing"),
        (downloads("flask", 3, installer={"pip": 2}), "installer does not add up"),
        (downloads("flask", 3, installer={}), "installer does not add up"),
        (
            downloads("flask", 3, installer={"pip": 4, "uv": -1}),
            "installer has a count that is not",
        ),
    ],
)
async def test_a_row_without_a_breakdown_of_its_day_is_wrong(
    engine: AsyncEngine, row: PackageDownloads, fault: str
) -> None:
    right = downloads("numpy", 3, installer={"pip": 3})
    with pytest.raises(HeldDayError, match=f"1 rows are wrong: {fault}"):
        await judged(engine, days_ago(0), right, row)


@pytest.mark.parametrize(
    ("column", "right", "wrong"),
    [
        (
            "python_minor",
            ["3.9", "3.14", "0.99", "null"],
            ["3", "3.9.1", "3.x", "3.100", "unknown", "٣.9"],
        ),
        ("system", ["windows", "linux", "darwin", "other", "null"], ["BeOS", "Linux", ""]),
        ("installer", ["pip", "uv", "z3c.pypimirror", "other"], ["mine", "Pip", "null"]),
        ("ci", ["true", "false", "null"], ["True", "1", "other"]),
        ("country", ["US", "DE", "null"], ["Atlantis", "us", "U", "US\n"]),
        (
            "version",
            ["1.0", "2!1.0.dev1+x", "other", "null"],
            ["1 0", "", "a" * 65, "é", "=1", "+1", "1,0"],
        ),
        ("implementation", ["cpython", "pypy", "other", "null"], ["CPython", "mine"]),
    ],
)
def test_unknown_categories_are_rejected(column: str, right: list[str], wrong: list[str]) -> None:
    columns = [*REQUIRED_COLUMNS, column]

    def fault(categories: list[str]) -> str | None:
        row = downloads("flask", len(categories))
        counts = dict.fromkeys(categories, 1)
        return fault_of(row._replace(breakdowns={**row.breakdowns, column: counts}), columns)

    # What was seen once is looked at no more, which should make no difference.
    for _ in range(2):
        assert fault(right) is None
        for category in wrong:
            assert fault([right[0], category]) == f"{column} has an unknown category"


def test_a_row_with_too_many_versions_is_rejected() -> None:
    def fault(count: int) -> str | None:
        versions = {f"1.{number}": 1 for number in range(count)} | {"other": 1}
        row = downloads("flask", count + 1, version=versions)
        return fault_of(row, list(row.breakdowns))

    assert fault(MAX_OPEN_CATEGORIES) is None
    assert fault(MAX_OPEN_CATEGORIES + 1) == "version has too many categories"


def _unparsed(package: str, total: int, *breakdowns: str) -> UnparsedDownloads:
    return UnparsedDownloads([package], [total], [total], [[inside] for inside in breakdowns])


def test_a_cached_text_is_checked_against_the_totals_of_its_row() -> None:
    rejected = RejectedRows()
    check = RowCheck(["python_minor", "system"], rejected)
    inside, system = '"3.9":1,"3.10":2', '"linux":3'
    staged = ['flask\t3\t3\t{"3.10":2,"3.9":1}\t{"linux":3}']
    as_objects = downloads("flask", {"3.9": 1, "3.10": 2})._replace(
        breakdowns={"python_minor": {"3.9": 1, "3.10": 2}, "system": {"linux": 3}}
    )
    assert check.staged([as_objects]) == staged
    for _ in range(2):
        assert check.staged(_unparsed("flask", 3, inside, system)) == staged
        assert check.staged(_unparsed("numpy", 4, inside, system)) == []
        assert check.staged(_unparsed("numpy", 3, inside, '"beos":3')) == []
        assert check.staged(_unparsed("no name!", 3, inside, system)) == []
    assert check.staged(_unparsed("numpy", 3, inside, "")) == []
    assert rejected.names == 2
    assert rejected.counts == {
        "python_minor does not add up to the downloads": 2,
        "system has an unknown category": 2,
        "system does not add up to the downloads": 1,
    }


def test_valid_rows_of_a_page_with_wrong_ones_are_staged() -> None:
    rejected = RejectedRows()
    names = ["a", "no name!", "b", "c", "d"]
    totals = [3, 3, 3, 3, 5]
    systems = ['"linux":3', '"linux":3', '"linux":2', '"beos":3', '"linux":5']
    page = UnparsedDownloads(names, totals, totals, [systems])
    staged = RowCheck(["system"], rejected).staged(page)
    assert staged == ['a\t3\t3\t{"linux":3}', 'd\t5\t5\t{"linux":5}']
    assert rejected.names == 1
    assert rejected.counts.total() == 2
    assert rejected.examples == {
        "not the name of a package": ("no name!", 3, 3, '"linux":3'),
        "system does not add up to the downloads": ("b", 3, 3, '"linux":2'),
        "system has an unknown category": ("c", 3, 3, '"beos":3'),
    }


@pytest.mark.parametrize(
    ("inside", "fault"),
    [
        ('"linux":3', None),
        ('"linux":2,"darwin":1', None),
        ('"linux":3.0', "system has a count that is not a positive integer"),
        ('"linux":true', "system has a count that is not a positive integer"),
        ('"linux":3,"darwin":0', "system has a count that is not a positive integer"),
        ('"linux":null', "system has a count that is not a positive integer"),
        ('"linux":[3]', "system has a count that is not a positive integer"),
        ('"Linux":3', "system has an unknown category"),
        ('"linux":3}', "system is not an object"),
        ('"linux"', "system is not an object"),
    ],
)
def test_counts_as_text_are_checked_as_strictly(inside: str, fault: str | None) -> None:
    assert fault_of(_unparsed("flask", 3, inside), ["system"]) == fault


def test_counts_are_escaped_for_copy() -> None:
    assert counts_text({r"1\2": 1}) == r'{"1\\\\2":1}'


async def test_a_source_is_closed_when_staging_fails(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    class OpenSource(GivenSource):
        async def _batches(self, day: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
            try:
                yield [downloads("flask", 1)]
            finally:
                ended.append(day)

    async def fail(*_: object) -> None:
        raise DatabaseUnavailableError("went away")

    monkeypatch.setattr(IngestRepository, "stage", fail)
    with pytest.raises(DatabaseUnavailableError) as raised:
        await ingest(engine, OpenSource({}), days_ago(0))
    # Also while somebody has the failure, and all that led to it.
    assert raised.value.__traceback__ is not None
    assert ended == [days_ago(0)]


async def test_most_downloaded_packages_get_the_lowest_ids(engine: AsyncEngine) -> None:
    """Later days do not change the numbers."""
    first = [downloads("a", 1), downloads("b", 3), downloads("c", 2, mirrors=9)]
    await publish(engine, days_ago(1), *first)
    await publish(engine, days_ago(0), downloads("a", 9), downloads("d", 5), downloads("e", 7))
    async with connect(engine) as connection:
        names = await connection.scalars(select(packages.c.name).order_by(packages.c.id))
    assert list(names) == [ALL_PACKAGES, "b", "c", "a", "e", "d"]


async def test_the_switch_interval_is_short_while_rows_are_read(engine: AsyncEngine) -> None:
    turns: list[float] = []

    class Watching(GivenSource):
        async def _batches(self, day: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
            async for batch in super()._batches(day):
                turns.append(sys.getswitchinterval())
                yield batch

    usual = sys.getswitchinterval()
    rows: list[PackageDownloads | Exception] = [downloads("flask", 1), SourceError("cut off")]
    with pytest.raises(SourceError):
        await ingest(engine, Watching({days_ago(0): rows}), days_ago(0))
    assert turns
    assert max(turns) < usual
    assert sys.getswitchinterval() == usual
