"""Tests that verification finds each difference from the published state, and no other."""

import re
from datetime import date
from itertools import count
from random import Random

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.verification_repository import Difference, VerificationRepository
from app.domain.downloads import RecentDownloads
from app.domain.package_name import ALL_PACKAGES
from app.errors import DayNotPublishedError, TableInUseError
from app.ingest import retention, verification
from app.ingest.retention import expire
from app.ingest.sources.sample import SampleSource
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


async def test_what_was_published_is_as_published(engine: AsyncEngine) -> None:
    """In any order, published again with other packages, and after retention."""
    random = Random(1)
    # The oldest goes first: later it would be outside the window.
    for oldest in (RETENTION_DAYS + 31, 50):
        for ago in (oldest, *random.sample([0, 1, 6, 7, 29, 30, 100], 7)):
            names = random.sample(["flask", "numpy", "once", "requests"], 2)
            rows = [downloads(name, {"3.12": ago + 1, "null": 2}, mirrors=3) for name in names]
            await publish(engine, days_ago(ago), *rows, downloads("mirrored", 0, mirrors=1))
        assert await differences(engine) == []
        await expire(engine, POLICY, NOW)
        assert await differences(engine) == []


async def test_sample_data_is_as_published(engine: AsyncEngine) -> None:
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


_A_ROW = f"date = '{OLD}' AND package_id = (SELECT id FROM packages WHERE name = 'flask')"
_ALL_PACKAGES_ROW = _A_ROW.replace("flask", ALL_PACKAGES)
_DIGEST = f"{OLD} digest: recorded DIGEST, found DIGEST"
_NO_ROW = f"{OLD} last_seen, without a row"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        pytest.param(
            f"UPDATE daily_downloads SET with_mirrors = 6 WHERE {_A_ROW}",
            [
                _DIGEST,
                f"{OLD} downloads_with_mirrors: recorded 10, found 11",
                f"{OLD} __all__ with_mirrors: recorded 10, found 11",
            ],
            id="a count with mirrors",
        ),
        pytest.param(
            f"UPDATE daily_downloads SET without_mirrors = 5 WHERE {_A_ROW}",
            [
                _DIGEST,
                f"{OLD} downloads: recorded 9, found 10",
                f"{OLD} __all__ without_mirrors: recorded 9, found 10",
                f"{OLD} python_minor of a row: recorded 5, found 4 for flask, 1 of 1 packages",
                f"{OLD} system of a row: recorded 5, found 4 for flask, 1 of 1 packages",
            ],
            id="a count without mirrors",
        ),
        pytest.param(
            f"DELETE FROM daily_downloads WHERE {_A_ROW}",
            [
                _DIGEST,
                f"{OLD} packages: recorded 2, found 1",
                f"{OLD} downloads: recorded 9, found 5",
                f"{OLD} downloads_with_mirrors: recorded 10, found 5",
                f"{OLD} __all__ with_mirrors: recorded 10, found 5",
                f"{OLD} __all__ without_mirrors: recorded 9, found 5",
                f"{OLD} __all__ python_minor 3.12: recorded 8, found 5",
                f"{OLD} __all__ python_minor 3.9: recorded 1, found none",
                f"{OLD} __all__ system linux: recorded 9, found 5",
            ],
            id="a row deleted",
        ),
        pytest.param(
            f"DELETE FROM daily_downloads WHERE date = '{OLD}'",
            [
                _DIGEST,
                f"{OLD} packages: recorded 2, found 0",
                f"{OLD} downloads: recorded 9, found 0",
                f"{OLD} downloads_with_mirrors: recorded 10, found 0",
            ],
            id="all rows deleted",
        ),
        pytest.param(
            f"""UPDATE daily_downloads SET python_minor = '{{"3.9": 1, "3.12": 4}}' """
            f"WHERE {_A_ROW}",
            [
                _DIGEST,
                f"{OLD} __all__ python_minor 3.12: recorded 8, found 9",
                f"{OLD} python_minor of a row: recorded 4, found 5 for flask, 1 of 1 packages",
            ],
            id="a breakdown that does not add up",
        ),
        pytest.param(
            f"""UPDATE daily_downloads SET python_minor = '{{"3.9": 2, "3.12": 2}}' """
            f"WHERE {_A_ROW}",
            [
                _DIGEST,
                f"{OLD} __all__ python_minor 3.12: recorded 8, found 7",
                f"{OLD} __all__ python_minor 3.9: recorded 1, found 2",
            ],
            id="a breakdown that adds up otherwise",
        ),
        *(
            pytest.param(
                f"UPDATE daily_downloads SET system = '{value}' WHERE {_A_ROW}",
                [
                    _DIGEST,
                    f"{OLD} __all__ system linux: recorded 9, found 5",
                    f"{OLD} system of a row: recorded 4, found 0 for flask, 1 of 1 packages",
                ],
                id=f"a breakdown that is {value}",
            )
            for value in ("null", "[4]", '{"linux": "4"}')
        ),
        pytest.param(
            f"UPDATE daily_downloads SET with_mirrors = 11 WHERE {_ALL_PACKAGES_ROW}",
            [f"{OLD} __all__ with_mirrors: recorded 11, found 10"],
            id="a count of all packages",
        ),
        pytest.param(
            f"""UPDATE daily_downloads SET python_minor = '{{"2.7": 1, "3.12": 8}}' """
            f"WHERE {_ALL_PACKAGES_ROW}",
            [
                f"{OLD} __all__ python_minor 2.7: recorded 1, found none",
                f"{OLD} __all__ python_minor 3.9: recorded none, found 1",
            ],
            id="a breakdown of all packages",
        ),
        pytest.param(
            f"DELETE FROM daily_downloads WHERE {_ALL_PACKAGES_ROW}",
            [
                f"{OLD} __all__ with_mirrors: recorded none, found 10",
                f"{OLD} __all__ without_mirrors: recorded none, found 9",
                f"{OLD} __all__ python_minor 3.12: recorded none, found 8",
                f"{OLD} __all__ python_minor 3.9: recorded none, found 1",
                f"{OLD} __all__ system linux: recorded none, found 9",
            ],
            id="the row of all packages deleted",
        ),
        pytest.param(
            f"UPDATE ingested_days SET digest = '' WHERE day = '{OLD}'",
            [f"{OLD} digest: recorded , found DIGEST"],
            id="a recorded digest",
        ),
        pytest.param(
            f"UPDATE ingested_days SET packages = 3, downloads = 7 WHERE day = '{OLD}'",
            [
                f"{OLD} packages: recorded 3, found 2",
                f"{OLD} downloads: recorded 7, found 9",
            ],
            id="recorded figures",
        ),
        pytest.param(
            f"DELETE FROM ingested_days WHERE day = '{OLD}'",
            [f"{OLD} rows of a day that is not published: recorded 0, found 3"],
            id="rows left over",
        ),
        pytest.param(
            "INSERT INTO daily_downloads VALUES "
            f"""(17, '{OLD}', 1, 1, '{{"3.12": 1}}', '{{"linux": 1}}')""",
            [
                _DIGEST,
                f"{OLD} packages: recorded 2, found 3",
                f"{OLD} downloads: recorded 9, found 10",
                f"{OLD} downloads_with_mirrors: recorded 10, found 11",
                f"{OLD} __all__ with_mirrors: recorded 10, found 11",
                f"{OLD} __all__ without_mirrors: recorded 9, found 10",
                f"{OLD} __all__ python_minor 3.12: recorded 8, found 9",
                f"{OLD} __all__ system linux: recorded 9, found 10",
                f"{OLD} rows of no package: recorded 0, found 1 for package_id 17, 1 of 1 packages",
            ],
            id="a row of no package",
        ),
        *(
            pytest.param(
                f"UPDATE packages SET {column} = {column} / 10 WHERE name <> '__all__'",
                [
                    f"{LATEST} {column}: recorded 1, found {flask} for flask, 1 of 2 packages",
                    f"{LATEST} top of {period}, rank 1: recorded numpy {numpy}, found numpy 2",
                    f"{LATEST} top of {period}, rank 2: recorded flask {flask}, found flask 1",
                ],
                id=column,
            )
            for column, period, flask, numpy in (
                ("last_day", "day", 10, 20),
                ("last_week", "week", 12, 26),
                ("last_month", "month", 12, 26),
            )
        ),
        pytest.param(
            "UPDATE packages SET previous_week = 1 WHERE name = 'flask'",
            [f"{LATEST} previous_week: recorded 1, found 0 for flask, 1 of 1 packages"],
            id="previous_week",
        ),
        pytest.param(
            "UPDATE packages SET month_rank = 3 - month_rank",
            [f"{LATEST} month_rank: recorded 1, found 2 for flask, 1 of 2 packages"],
            id="month_rank",
        ),
        pytest.param(
            "UPDATE packages SET month_rank = 1 WHERE name = '__all__'",
            [f"{LATEST} month_rank: recorded 1, found none for __all__, 1 of 1 packages"],
            id="a rank of all packages",
        ),
        pytest.param(
            "UPDATE packages SET is_popular = false WHERE name = 'numpy'",
            [f"{LATEST} is_popular: recorded false, found true for numpy, 1 of 1 packages"],
            id="is_popular",
        ),
        pytest.param(
            "DELETE FROM top_packages WHERE period = 'day' AND rank = 1",
            [f"{LATEST} top of day, rank 1: recorded none, found numpy 20"],
            id="a rank that is missing",
        ),
        pytest.param(
            "UPDATE top_packages SET downloads = 27 WHERE period = 'month' AND rank = 1",
            [f"{LATEST} top of month, rank 1: recorded numpy 27, found numpy 26"],
            id="a ranking",
        ),
        pytest.param(
            "INSERT INTO trending_packages VALUES (1, 'gone', 30000, 20000)",
            [f"{LATEST} trending, rank 1: recorded gone 30000 20000, found none"],
            id="a trend",
        ),
        pytest.param(
            f"UPDATE packages SET last_seen = '{OLD}' WHERE name = 'flask'",
            [f"{OLD} last_seen: recorded {OLD}, found {LATEST} for flask, 1 of 1 packages"],
            id="last_seen",
        ),
        pytest.param(
            f"INSERT INTO packages (name, last_seen) VALUES ('orphan', '{OLD}')",
            [f"{_NO_ROW}: recorded {OLD}, found none for orphan, 1 of 1 packages"],
            id="a package without a row",
        ),
    ],
)
async def test_what_differs_is_said_and_nothing_else(
    engine: AsyncEngine, statement: str, found: list[str]
) -> None:
    await publish(
        engine, OLD, downloads("flask", {"3.9": 1, "3.12": 3}, mirrors=1), downloads("numpy", 5)
    )
    await publish(engine, BEFORE, downloads("flask", 2), downloads("numpy", 6))
    await publish(engine, LATEST, downloads("flask", 10), downloads("numpy", 20))
    await corrupt(engine, statement)
    said = await differences(engine)
    assert sorted(re.sub("[0-9a-f]{64}", "DIGEST", line) for line in said) == sorted(found)
    # A day that is asked for is compared with its own record alone.
    assert await differences(engine, BEFORE) == []


async def test_a_package_that_is_gone(engine: AsyncEngine) -> None:
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
        verified.append(step.day)
        for day in (OLD, BEFORE, LATEST):
            await publish(engine, day, downloads("flask", next(counts)))
    assert verified[:2] == [OLD, BEFORE]
    assert set(verified[2:]) == {None}


async def test_a_day_that_is_published_in_the_middle_of_a_step_is_no_difference(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the step either."""
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
    first = days_ago(RETENTION_DAYS + 31)
    for day in (first, LATEST):
        await publish(engine, day, downloads("flask", 1))
    compare = VerificationRepository.differences_of_day

    async def expire_and_compare(self: VerificationRepository, day: date) -> list[Difference]:
        with pytest.raises(TableInUseError):
            await expire(engine, POLICY, NOW)
        return await compare(self, day)

    with monkeypatch.context() as patch:
        patch.setattr(VerificationRepository, "differences_of_day", expire_and_compare)
        assert await differences(engine, first) == []
    days = await verification.days_to_verify(engine, None)
    await expire(engine, POLICY, NOW)
    steps = [step async for step in verification.verify(engine, days, packages=True)]
    assert [step.day for step in steps if step.day] == [LATEST]
    assert all(step.differences == [] for step in steps)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        pytest.param(
            f"""UPDATE daily_downloads SET installer = '{{"pip": 3}}' WHERE {_A_ROW}""",
            [
                _DIGEST,
                f"{OLD} __all__ installer pip: recorded 8, found 7",
                f"{OLD} installer of a row: recorded 4, found 3 for flask, 1 of 1 packages",
            ],
            id="a count",
        ),
        pytest.param(
            f"UPDATE daily_downloads SET installer = NULL WHERE {_A_ROW}",
            [_DIGEST, f"{OLD} __all__ installer pip: recorded 8, found 4"],
            id="of one row",
        ),
        pytest.param(
            f"UPDATE daily_downloads SET installer = NULL WHERE date = '{OLD}'",
            [_DIGEST, f"{OLD} breakdowns: recorded installer version, found version"],
            id="of all rows",
        ),
        pytest.param(
            f"UPDATE daily_downloads SET installer = NULL WHERE {_ALL_PACKAGES_ROW}",
            [
                f"{OLD} __all__ installer pip: recorded none, found 8",
                f"{OLD} __all__ installer uv: recorded none, found 1",
            ],
            id="of all packages",
        ),
        pytest.param(
            f"""UPDATE daily_downloads SET version = '{{"2.0": 4}}' WHERE {_A_ROW}""",
            [_DIGEST],
            id="another release",
        ),
        pytest.param(
            f"UPDATE daily_downloads SET ci = version WHERE date = '{OLD}'",
            [
                _DIGEST,
                f"{OLD} breakdowns: recorded installer version, found installer ci version",
                f"{OLD} __all__ ci 1.0: recorded none, found 9",
            ],
            id="one that the day does not have",
        ),
    ],
)
async def test_what_differs_of_an_optional_breakdown(
    engine: AsyncEngine, statement: str, found: list[str]
) -> None:
    await publish(
        engine,
        OLD,
        downloads("flask", 4, installer={"pip": 4}, version={"1.0": 4}),
        downloads("numpy", 5, installer={"pip": 4, "uv": 1}, version={"1.0": 5}),
    )
    await publish(engine, LATEST, downloads("flask", 1), downloads("numpy", 1))
    assert await differences(engine) == []
    await corrupt(engine, statement)
    told = [re.sub(r"[0-9a-f]{64}", "DIGEST", one) for one in await differences(engine)]
    assert told == found
