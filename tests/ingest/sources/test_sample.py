from collections.abc import Sequence
from datetime import date, timedelta

from app.domain.breakdowns import (
    BREAKDOWN_COLUMNS,
    CI,
    INSTALLER,
    OPTIONAL_BREAKDOWNS,
    VERSION,
    Breakdown,
    columns_with,
)
from app.domain.downloads import PackageDownloads
from app.ingest.sources.sample import PACKAGES, SampleSource
from tests.days import fault_of, rows_of

MONDAY = date(2026, 11, 16)


async def _rows(
    day: date, breakdowns: Sequence[Breakdown] = OPTIONAL_BREAKDOWNS
) -> list[PackageDownloads]:
    reading = await SampleSource(breakdowns).read(day)
    assert tuple(reading.columns) == columns_with(breakdowns)
    return await rows_of(reading)


async def test_every_day_is_consistent() -> None:
    for ago in (0, 1, 179, 2000):
        rows = await _rows(MONDAY - timedelta(days=ago))
        assert [row.package for row in rows] == list(PACKAGES)
        assert [fault_of(row, BREAKDOWN_COLUMNS) for row in rows] == [None] * 200
        assert all(row.with_mirrors > row.without_mirrors > 0 for row in rows)


async def test_names_are_those_that_people_try() -> None:
    assert {"requests", "numpy", "boto3", "flask", "zope-interface"} < set(PACKAGES)
    assert len(set(PACKAGES)) == 200


async def test_a_day_is_always_the_same() -> None:
    assert await _rows(MONDAY) == await _rows(MONDAY)
    assert await _rows(MONDAY) != await _rows(MONDAY - timedelta(days=7))


async def test_other_breakdowns_do_not_change_figures() -> None:
    every = await _rows(MONDAY)
    for breakdowns in ((), (INSTALLER,), (VERSION, CI)):
        columns = columns_with(breakdowns)
        assert await _rows(MONDAY, breakdowns) == [
            row._replace(breakdowns={column: row.breakdowns[column] for column in columns})
            for row in every
        ]


async def test_packages_have_several_releases() -> None:
    assert all(2 <= len(row.breakdowns["version"]) <= 5 for row in await _rows(MONDAY))


async def test_releases_follow_each_other() -> None:
    """Each begins small, has most for a while, and is gone in the end."""
    most = []
    for passed in range(0, 720, 3):
        row = (await _rows(MONDAY + timedelta(days=passed - 720), [VERSION]))[0]
        counts = row.breakdowns["version"]
        most.append(max(counts, key=counts.__getitem__))
    releases = list(dict.fromkeys(most))
    assert len(releases) >= 3
    assert most == sorted(most, key=releases.index), "none comes back"
    assert releases == sorted(releases, key=lambda name: [int(part) for part in name.split(".")])


async def test_the_shape_is_that_of_real_downloads() -> None:
    totals = {}
    for day in (MONDAY + timedelta(days=passed) for passed in range(7)):
        rows = await _rows(day)
        totals[day.weekday()] = sum(row.without_mirrors for row in rows)
    assert max(totals[5], totals[6]) < 0.8 * min(totals[weekday] for weekday in range(5))
    first, last = rows[0].without_mirrors, rows[-1].without_mirrors
    assert 10 < first / last < 200, "a few packages have most of the downloads"
    assert {"2.7", "3.14", "null"} < set(rows[0].breakdowns["python_minor"])
    assert set(rows[0].breakdowns["system"]) == {"linux", "windows", "darwin", "other", "null"}
