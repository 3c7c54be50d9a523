from datetime import date, timedelta

from app.downloads import PackageDownloads
from app.ingest.pipeline import fault_of
from app.ingest.sample import PACKAGES, SampleSource

MONDAY = date(2026, 11, 16)


async def _rows(day: date) -> list[PackageDownloads]:
    reading = await SampleSource().read(day)
    return [row async for batch in reading.batches for row in batch]


async def test_every_day_is_consistent() -> None:
    for ago in (0, 1, 179, 2000):
        rows = await _rows(MONDAY - timedelta(days=ago))
        assert [row.package for row in rows] == list(PACKAGES)
        assert [fault_of(row) for row in rows] == [None] * 200
        assert all(row.with_mirrors > row.without_mirrors > 0 for row in rows)


async def test_names_are_those_that_people_try() -> None:
    assert {"requests", "numpy", "boto3", "flask", "zope-interface"} < set(PACKAGES)
    assert len(set(PACKAGES)) == 200


async def test_a_day_is_always_the_same() -> None:
    assert await _rows(MONDAY) == await _rows(MONDAY)
    assert await _rows(MONDAY) != await _rows(MONDAY - timedelta(days=7))


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


async def test_a_version_has_no_downloads_before_its_release() -> None:
    rows = await _rows(date(2025, 10, 6))
    assert not any("3.14" in row.breakdowns["python_minor"] for row in rows)
