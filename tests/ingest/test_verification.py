"""Tests that verification finds each difference from the published state, and no other."""

import re
from dataclasses import replace
from datetime import date
from itertools import count
from pathlib import Path
from random import Random

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.verification_repository import Difference, VerificationRepository
from app.domain.downloads import RecentDownloads
from app.domain.package_name import ALL_PACKAGES
from app.errors import DayNotPublishedError, TableInUseError
from app.ingest import retention, verification
from app.ingest.publish import PublishContext
from app.ingest.retention import expire
from app.ingest.rollup import roll_up_due
from app.ingest.sources.sample import SampleSource
from app.settings import Settings
from tests.clock import NOW
from tests.days import POLICY, RETENTION_DAYS, days_ago, downloads, ingest, publish

LATEST, BEFORE, OLD = days_ago(0), days_ago(1), days_ago(40)


async def differences(engine: AsyncEngine, day: date | None = None) -> list[str]:
    days = await verification.days_to_verify(engine, day)
    return [
        str(difference)
        async for step in verification.verify(engine, days, packages=day is None)
        for difference in step.differences
    ]


async def corrupt(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(statement)


async def test_published_days_have_no_differences(engine: AsyncEngine) -> None:
    """In any order, published again with other packages, and after retention."""
    random = Random(1)
    context = PublishContext(engine, POLICY, lambda: NOW)
    # The oldest goes first: later it would be outside the window. Its month is rolled up.
    for oldest in (RETENTION_DAYS + 31, 50):
        for ago in (oldest, *random.sample([0, 1, 6, 7, 29, 30, 100], 7)):
            names = random.sample(["flask", "numpy", "once", "requests"], 2)
            rows = [downloads(name, {"3.12": ago + 1, "null": 2}, mirrors=3) for name in names]
            await publish(engine, days_ago(ago), *rows, downloads("mirrored", 0, mirrors=1))
        assert await differences(engine) == []
        months = [month async for month in roll_up_due(context, Settings())]
        assert len(months) == (oldest > RETENTION_DAYS)
        assert await differences(engine) == []
        assert len((await expire(engine, POLICY, NOW)).partitions) == len(months)
        assert await differences(engine) == []


async def test_sample_data_has_no_differences(engine: AsyncEngine) -> None:
    for day in (LATEST, BEFORE):
        await ingest(engine, SampleSource(), day)
    assert await differences(engine) == []


async def test_an_empty_database(engine: AsyncEngine) -> None:
    assert await verification.days_to_verify(engine, None) == []
    assert await differences(engine) == []


async def test_a_day_that_is_not_published(engine: AsyncEngine) -> None:
    await publish(engine, LATEST, downloads("flask", 1))
    with pytest.raises(DayNotPublishedError, match=f"{BEFORE} is not published"):
        await verification.days_to_verify(engine, BEFORE)


_ROW = f"date = '{OLD}' AND package_id = (SELECT id FROM packages WHERE name = '%s')"
_CASES = (
    (Path(__file__).with_name("differences.txt").read_text())
    .replace("FLASK_ROW", _ROW % "flask")
    .replace("ALL_ROW", _ROW % ALL_PACKAGES)
    .replace("OLD", str(OLD))
    .replace("LATEST", str(LATEST))
)
# Each change of the database, and below it, indented, the differences that it makes.
_CHANGES = dict(case.split(": ", 1) for case in re.split(r"\n(?! )", _CASES.strip()))


@pytest.mark.parametrize("change", _CHANGES)
async def test_verification_reports_exactly_the_differences(
    engine: AsyncEngine, change: str
) -> None:
    counts: dict[str, dict[str, dict[str, int]]] = {"flask": {}, "numpy": {}}
    if change.startswith("optional"):
        counts["flask"] = {"installer": {"pip": 4}, "version": {"1.0": 4}}
        counts["numpy"] = {"installer": {"pip": 4, "uv": 1}, "version": {"1.0": 5}}
    flask = downloads("flask", {"3.9": 1, "3.12": 3}, mirrors=1, **counts["flask"])
    await publish(engine, OLD, flask, downloads("numpy", 5, mirrors=0, **counts["numpy"]))
    await publish(engine, BEFORE, downloads("flask", 2), downloads("numpy", 6))
    await publish(engine, LATEST, downloads("flask", 10), downloads("numpy", 20))
    statement, *found = _CHANGES[change].split("\n    ")
    await corrupt(engine, statement)
    said = await differences(engine)
    assert sorted(re.sub("[0-9a-f]{64}", "DIGEST", line) for line in said) == sorted(found)
    # A day that is asked for is compared with its own record alone.
    assert await differences(engine, BEFORE) == []


async def test_a_missing_package_is_a_difference(engine: AsyncEngine) -> None:
    """Its rows count still, and are not the same without their name."""
    await publish(engine, LATEST, downloads("flask", 10), downloads("numpy", 20))
    await corrupt(engine, "DELETE FROM packages WHERE name = 'flask'")
    digest, rows, *ranks = await differences(engine)
    assert digest.startswith(f"{LATEST} digest: ")
    assert ranks == [
        f"{LATEST} top of {period}, rank 2: recorded flask 10, found none"
        for period in ("day", "month", "week")
    ]
    assert rows.startswith(f"{LATEST} rows of no package: recorded 0, found 1 for package_id ")


async def test_rows_in_a_database_without_a_published_day(engine: AsyncEngine) -> None:
    await publish(engine, LATEST, downloads("flask", 10))
    await corrupt(engine, "DELETE FROM ingested_days")
    assert await differences(engine) == [
        f"{LATEST} rows of a day that is not published: recorded 0, found 2"
    ]


async def test_days_that_are_published_meanwhile_are_no_difference(engine: AsyncEngine) -> None:
    """Days disappear before the first step and after each, verified or not."""
    for day in (OLD, BEFORE):
        await publish(engine, day, downloads("flask", 1), downloads("numpy", 1))
    days = await verification.days_to_verify(engine, None)
    counts = count(2)
    verified = []
    await publish(engine, BEFORE, downloads("flask", next(counts)))
    async for step in verification.verify(engine, days, packages=True):
        assert step.differences == []
        verified.append(step.period)
        for day in (OLD, BEFORE, LATEST):
            await publish(engine, day, downloads("flask", next(counts)))
    assert verified[:2] == [OLD, BEFORE]
    assert set(verified[2:]) == {None}


async def test_a_day_that_is_published_in_the_middle_of_a_step_is_no_difference(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publish does not wait for the step either."""
    await publish(engine, LATEST, downloads("flask", 1))
    compare = VerificationRepository.differences_of_day

    async def publish_and_compare(self: VerificationRepository, day: date) -> list[Difference]:
        await publish(engine, day, downloads("numpy", 2))
        return await compare(self, day)

    monkeypatch.setattr(VerificationRepository, "differences_of_day", publish_and_compare)
    assert await differences(engine) == []
    published = await DownloadsRepository(engine, RETENTION_DAYS).recent("numpy")
    assert published == RecentDownloads(2, 2, 2)


async def test_a_month_is_dropped_between_steps_and_not_in_one(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "EXPIRE_TRIES", 1)
    policy = replace(POLICY, keep_months=0)
    first = days_ago(RETENTION_DAYS + 31)
    for day in (first, LATEST):
        await publish(engine, day, downloads("flask", 1))
    compare = VerificationRepository.differences_of_day

    async def expire_and_compare(self: VerificationRepository, day: date) -> list[Difference]:
        with pytest.raises(TableInUseError):
            await expire(engine, policy, NOW)
        return await compare(self, day)

    with monkeypatch.context() as patch:
        patch.setattr(VerificationRepository, "differences_of_day", expire_and_compare)
        assert await differences(engine, first) == []
    days = await verification.days_to_verify(engine, None)
    await expire(engine, policy, NOW)
    steps = [step async for step in verification.verify(engine, days, packages=True)]
    assert [step.period for step in steps if step.period] == [LATEST]
    assert all(step.differences == [] for step in steps)
