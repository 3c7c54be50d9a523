"""Files of months: what an export writes, and what another instance imports."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.tables import monthly_downloads, stored_months
from app.domain.downloads import PackageDownloads
from app.domain.months import Month, StoredMonth, days_of, parse_month
from app.dumps import export as exports
from app.dumps.listing import DumpFormat, MonthDump, parse
from app.dumps.stores.folder import DumpFolder
from app.errors import DumpsError, IngestError, MalformedDumpError, SourceError
from app.ingest.policy import PublishPolicy
from app.ingest.publish import PublishContext
from app.ingest.rollup import roll_up_due
from app.ingest.runs import DayIngester
from app.ingest.sources.sample import SampleSource
from app.ingest.sources.source import Source
from app.settings import Settings
from tests.clock import NOW
from tests.contents import everything
from tests.days import (
    POLICY,
    RETENTION_DAYS,
    GivenSource,
    days_ago,
    downloads,
    ingest,
    publish,
    store_days,
)
from tests.dumps.rows import DAYS
from tests.ingest.sources.file_server import line_of, source_of

pytestmark = pytest.mark.usefixtures("in_this_process", "quick_retries")

MONTH = parse_month("2025-02")
ROWS = [
    downloads("flask", {"3.12": 50, "3.9": 10}, {"linux": 60}, mirrors=5),
    downloads("numpy", {"null": 70}, {"windows": 70}),
]


@pytest.fixture
def folder(tmp_path: Path) -> DumpFolder:
    return DumpFolder(tmp_path / "dumps")


@pytest.fixture
async def stored(engine: AsyncEngine) -> StoredMonth:
    """A month beside a published day."""
    await publish(engine, days_ago(0), downloads("flask", 1))
    return await _import(engine, GivenSource({MONTH: ROWS}))


async def _import(
    engine: AsyncEngine, source: Source, month: Month = MONTH, policy: PublishPolicy = POLICY
) -> StoredMonth:
    context = PublishContext(engine, policy, lambda: NOW)
    return await DayIngester(context, source).import_month(month)


async def _export(
    engine: AsyncEngine,
    folder: DumpFolder,
    dump_format: DumpFormat = DumpFormat.NDJSON,
    first_month: date = date.min,
) -> Sequence[str]:
    """Export all days and months as the command does, and return the names of removed files."""
    days, months = await exports.published_days(engine), await exports.stored_months(engine)
    with folder.opened():
        removed = exports.remove_outdated(
            folder, days, retention_days=RETENTION_DAYS, first_month=first_month
        )
        exported = exports.export(engine, folder, [*days, *months], dump_format)
        return [*removed, *[name async for one in exported for name in one.removed]]


async def _forget_months(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        for table in (monthly_downloads, stored_months):
            await connection.execute(delete(table))


def _month_dump(folder: DumpFolder) -> MonthDump:
    (dump,) = folder.dumps().months
    return dump


async def test_a_month_is_a_file_like_a_day(
    engine: AsyncEngine, folder: DumpFolder, stored: StoredMonth
) -> None:
    assert await _export(engine, folder) == []
    dump = _month_dump(folder)
    assert dump.name == f"monthly-2025-02-{stored.digest[:12]}.ndjson.gz"
    assert dump.columns == (
        *("month", "package", "with_mirrors", "without_mirrors", "python_minor", "system"),
    )
    listed = orjson.loads((folder.path / "_index.json").read_bytes())
    assert list(listed) == ["data", "months", "type"]
    assert [one["day"] for one in listed["data"]] == [str(days_ago(0))]
    (month,) = listed["months"]
    assert (next(iter(month)), month["month"]) == ("month", "2025-02")
    assert (month["days"], month["missing_days"], month["counted_files"]) == (28, [], "all")
    before = {path.name: path.stat().st_ino for path in folder.path.iterdir()}
    assert await _export(engine, folder) == []
    assert {path.name: path.stat().st_ino for path in folder.path.iterdir()} == before


@example_settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=DAYS, dump_format=st.sampled_from(DumpFormat))
async def test_any_exported_and_imported_month_is_unchanged(
    rows: list[PackageDownloads],
    dump_format: DumpFormat,
    engine: AsyncEngine,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = DumpFolder(tmp_path_factory.mktemp("dumps"))
    await publish(engine, days_ago(0), downloads("flask", 1))
    exported = await _import(engine, GivenSource({MONTH: rows}))
    before = await everything(engine)
    await _export(engine, folder, dump_format)
    await _forget_months(engine)
    imported = await _import(engine, source_of(folder.path))
    assert imported == replace(exported, source="file", breakdowns=imported.breakdowns)
    after = await everything(engine)
    del before["months"], after["months"]
    assert after == before
    await _forget_months(engine)


@pytest.mark.parametrize("dump_format", DumpFormat)
async def test_a_month_without_downloads(
    engine: AsyncEngine, folder: DumpFolder, tmp_path: Path, dump_format: DumpFormat
) -> None:
    policy = replace(POLICY, followed="flask")
    await ingest(engine, GivenSource({days_ago(0): ROWS[:1]}), days_ago(0), policy)
    exported = await _import(engine, GivenSource({}), policy=policy)
    await _export(engine, folder, dump_format)
    await _forget_months(engine)
    imported = await _import(engine, source_of(folder.path, "flask"), policy=policy)
    assert imported == replace(exported, source="file", breakdowns=imported.breakdowns)
    assert list(imported.breakdowns) == list(exported.breakdowns)
    (tmp_path / f"{MONTH}.ndjson").write_bytes(b"")
    with pytest.raises(IngestError, match="has no rows"):
        await _import(engine, source_of(tmp_path / "{day}.ndjson"), policy=policy)


async def test_a_month_keeps_what_it_lacks(engine: AsyncEngine, folder: DumpFolder) -> None:
    """A month that lacks a day, and whose days have different rules."""
    month = parse_month("2026-06")
    days = days_of(month)
    await store_days(engine, {day: [downloads("flask", 5)] for day in (*days[1:], days_ago(0))})
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            f"UPDATE ingested_days SET counted_files = 'artifacts' WHERE day = '{days[1]}'"
        )
    context = PublishContext(engine, replace(POLICY, retention_days=30), lambda: NOW)
    (rolled_up,) = [one async for one in roll_up_due(context, Settings())]
    assert (rolled_up.counted_files, rolled_up.missing_days) == (None, [days[0]])
    await _export(engine, folder)
    await _forget_months(engine)
    imported = await _import(engine, source_of(folder.path), month)
    assert (imported.counted_files, list(imported.missing_days)) == (None, [days[0]])
    assert (imported.days, imported.digest) == (29, rolled_up.digest)


@pytest.mark.parametrize("change", [lambda file: file[:-1], lambda file: file[:-1] + b"x"])
async def test_a_changed_or_truncated_file_is_refused(
    engine: AsyncEngine, folder: DumpFolder, stored: StoredMonth, change: object
) -> None:
    await _export(engine, folder)
    path = folder.path / _month_dump(folder).name
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    before = await everything(engine)
    with pytest.raises(SourceError, match="differs from the list"):
        await _import(engine, source_of(folder.path))
    assert await everything(engine) == before


async def test_a_list_of_days_only_has_no_months(
    engine: AsyncEngine, folder: DumpFolder, stored: StoredMonth
) -> None:
    """The list of an instance without stored months, or of an earlier version."""
    await _export(engine, folder)
    listed = orjson.loads((folder.path / "_index.json").read_bytes())
    del listed["months"]
    (folder.path / "_index.json").write_bytes(orjson.dumps(listed))
    with pytest.raises(SourceError, match="lists no file of 2025-02 yet"):
        await _import(engine, source_of(folder.path))


async def test_a_file_named_by_its_month(engine: AsyncEngine, tmp_path: Path) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    source = source_of(tmp_path / "{day}.ndjson")
    path = tmp_path / "2025-02.ndjson"
    for month in (None, "2025-02", "2025-02-01"):
        path.write_bytes(line_of("Flask", month=month))
        imported = await _import(engine, source)
        assert (imported.packages, imported.days) == (1, 28)
    for columns, message in (
        ({"month": "2025-03"}, "month differs from 2025-02"),
        ({"day": "2025-02-01"}, "the file of 2025-02 has a day"),
    ):
        path.write_bytes(line_of("Flask", **columns))
        with pytest.raises(IngestError, match=message):
            await _import(engine, source)


async def test_sample_months_stay_samples(engine: AsyncEngine, folder: DumpFolder) -> None:
    await ingest(engine, SampleSource(), days_ago(0))
    await _import(engine, SampleSource())
    await _export(engine, folder)
    assert _month_dump(folder).name.startswith("sample-monthly-2025-02-")
    assert (await _import(engine, source_of(folder.path))).source == "sample"
    await publish(engine, days_ago(0), downloads("flask", 1), replace_sample=True)
    with pytest.raises(DumpsError, match="holds dumps of sample data"):
        await _export(engine, folder)
    with pytest.raises(IngestError, match="never mixed with sample data"):
        await _import(engine, source_of(folder.path))


async def test_which_files_of_months_are_removed(
    engine: AsyncEngine, folder: DumpFolder, stored: StoredMonth
) -> None:
    later = parse_month("2025-03")
    await _import(engine, GivenSource({later: ROWS}), later)
    await _export(engine, folder)
    names = {str(one.period): one.name for one in folder.dumps().months}
    # A month that another source has is replaced.
    await _import(engine, GivenSource({MONTH: ROWS[:1]}))
    assert await _export(engine, folder) == [names["2025-02"]]
    # A month that the database does not have stays until KEEP_MONTHS excludes it.
    await _forget_months(engine)
    assert await _export(engine, folder) == []
    assert len(folder.dumps().months) == 2
    (removed,) = await _export(engine, folder, first_month=later.first)
    assert removed.startswith("monthly-2025-02-")
    assert [str(one.period) for one in folder.dumps().months] == ["2025-03"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"month": "2025-13"}, "months.0.month"),
        ({"month": "2025-03"}, "the name should be monthly-2025-03"),
        ({"source": "sample"}, "the name should be sample-monthly-2025-02"),
        ({"days": 29}, "days and missing_days should be all days"),
        ({"missing_days": ["2025-02-01"]}, "days and missing_days should be all days"),
        ({"days": 27, "missing_days": ["2025-03-01"]}, "days and missing_days should be all"),
    ],
)
async def test_a_list_that_contradicts_itself(
    engine: AsyncEngine,
    folder: DumpFolder,
    stored: StoredMonth,
    change: dict[str, object],
    message: str,
) -> None:
    await _export(engine, folder)
    listed = orjson.loads((folder.path / "_index.json").read_bytes())
    listed["months"][0] |= change
    with pytest.raises(MalformedDumpError, match=message):
        parse(orjson.dumps(listed))
