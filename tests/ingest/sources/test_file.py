"""Files as a source: dumps of another instance, and people's own."""

import asyncio
import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.runs_repository import latest_runs
from app.db.tables import daily_downloads, ingested_days, packages
from app.domain.downloads import PackageDownloads
from app.dumps.formats import limits
from app.dumps.listing import INDEX_NAME, DumpFormat, Dumps, parse
from app.dumps.stores.folder import DumpFolder
from app.errors import (
    IngestError,
    MixedDataError,
    RepeatedFaultError,
    SettingsError,
    SourceDayError,
    SourceError,
    SourceUnavailableError,
)
from app.ingest.publish import PublishContext
from app.ingest.runs import DayIngester, ingest_lock
from app.ingest.scheduler import run_ingest_job
from app.ingest.sources import file
from app.ingest.sources.file import create_source
from app.ingest.sources.sample import SampleSource
from app.settings import Settings
from tests.clock import NOW
from tests.contents import everything
from tests.days import (
    FORCED,
    RETENTION_DAYS,
    GivenSource,
    days_ago,
    downloads,
    publish,
)
from tests.dumps.rows import DAYS
from tests.ingest.sources.file_server import (
    DAY,
    ROWS,
    export_all,
    ingest,
    line_of,
    read,
    source_of,
)

# What export writes


@pytest.mark.parametrize("dump_format", DumpFormat)
async def test_an_exported_and_ingested_day_is_unchanged(
    engine: AsyncEngine, folder: DumpFolder, dump_format: DumpFormat
) -> None:
    await publish(engine, days_ago(3), downloads("flask", 1))
    published = await publish(engine, DAY, *ROWS)
    before = await everything(engine)
    await export_all(engine, folder, dump_format)
    source = source_of(folder.path)
    for _ in range(2):
        assert (await ingest(engine, source)).digest == published.digest
    again = await ingest(engine, source, days_ago(3))
    assert again.source == "file"
    after = await everything(engine)
    assert {name: rows for name, rows in after.items() if name != "days"} == {
        name: rows for name, rows in before.items() if name != "days"
    }


@pytest.mark.usefixtures("in_this_process")
@example_settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(day=DAYS, dump_format=st.sampled_from(DumpFormat))
async def test_any_exported_and_ingested_day_is_unchanged(
    day: list[PackageDownloads],
    dump_format: DumpFormat,
    engine: AsyncEngine,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = DumpFolder(tmp_path_factory.mktemp("dumps"))
    published = await publish(engine, DAY, *day)
    before = await everything(engine)
    await export_all(engine, folder, dump_format)
    assert (await ingest(engine, source_of(folder.path))).digest == published.digest
    after = await everything(engine)
    assert (after["rows"], after["packages"]) == (before["rows"], before["packages"])


@pytest.mark.usefixtures("in_this_process")
async def test_only_selected_breakdowns_are_ingested(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    """All that a file has, unless a setting says which."""
    row = downloads("flask", 5, ci={"null": 5}, country={"US": 3, "null": 2})
    published = await publish(engine, DAY, row)
    await export_all(engine, folder)
    again = await ingest(engine, source_of(folder.path))
    assert (again.digest, list(again.breakdowns)) == (published.digest, ["ci", "country"])
    settings = {"ingest_files": str(folder.path), "ingest_breakdowns": "version,country"}
    fewer = await ingest(engine, create_source(Settings.model_validate(settings)))
    assert list(fewer.breakdowns) == ["country"]


@pytest.mark.usefixtures("in_this_process")
async def test_samples_stay_samples(engine: AsyncEngine, folder: DumpFolder) -> None:
    """So they are told to be made up, and never beside what is real."""
    for ago in (1, 0):
        await ingest(engine, SampleSource(), days_ago(ago))
    await export_all(engine, folder)
    before = await everything(engine)
    source = source_of(folder.path)
    for ago in (0, 1):
        assert (await ingest(engine, source, days_ago(ago))).source == "sample"
    assert await everything(engine) == before
    # A real one among them is refused, and no file calls itself so.
    (tmp := folder.path / f"{DAY}.ndjson").write_bytes(line_of("flask"))
    with pytest.raises(MixedDataError, match="holds sample data"):
        await ingest(engine, source_of(folder.path / "{day}.ndjson"))
    tmp.unlink()


async def test_samples_are_refused_where_data_is_real(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    await ingest(engine, SampleSource(), DAY)
    await export_all(engine, folder)
    real = GivenSource({DAY: ROWS})
    await ingest(engine, real, DAY, replace(FORCED, replace_sample=True))
    before = await everything(engine)
    with pytest.raises(MixedDataError, match="holds real data"):
        await ingest(engine, source_of(folder.path))
    assert await everything(engine) == before


# People's own


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".ndjson", line_of("flask") + line_of("requests")),
        (".ndjson.gz", gzip.compress(line_of("flask") + line_of("requests"))),
        (
            ".csv",
            b"""system,package,python_minor,without_mirrors,with_mirrors,more
"{""linux"":1}",flask,"{""3.9"":1}",1,1,x
"{""linux"":1}",requests,"{""3.9"":1}",1,1,
""",
        ),
    ],
)
async def test_a_file_named_by_its_day(
    engine: AsyncEngine, tmp_path: Path, suffix: str, content: bytes
) -> None:
    (tmp_path / f"of-{DAY}{suffix}").write_bytes(content)
    source = source_of(tmp_path / f"of-{{day}}{suffix}")
    published = await ingest(engine, source)
    assert (published.source, published.packages, published.downloads) == ("file", 2, 2)


async def test_names_are_normalised(engine: AsyncEngine, tmp_path: Path) -> None:
    (tmp_path / f"{DAY}.ndjson").write_bytes(
        line_of("Flask") + line_of("zope.interface") + line_of("no name")
    )
    published = await ingest(engine, source_of(tmp_path / "{day}.ndjson"))
    assert published.packages == 2
    figures = DownloadsRepository(engine, RETENTION_DAYS)
    for package in ("flask", "zope-interface"):
        assert (await figures.recent(package)) is not None


async def test_a_day_without_a_file_yet(
    engine: AsyncEngine, folder: DumpFolder, tmp_path: Path
) -> None:
    """Others may be, so the job goes on to them and comes back to it."""
    await publish(engine, days_ago(1), *ROWS)
    await export_all(engine, folder)
    with pytest.raises(SourceDayError, match=rf"_index\.json lists no file of {DAY} yet"):
        await read(source_of(folder.path))
    with pytest.raises(SourceDayError, match=f"there is no file of {DAY} yet at .*{DAY}.csv"):
        await read(source_of(tmp_path / "{day}.csv"))


FOLLOWED = replace(FORCED, followed="flask")


BAD_FILES: dict[str, tuple[bytes, type[Exception], str]] = {
    "of nothing": (b"", Exception, "no rows"),
    "that is cut off": (line_of() + line_of("b")[:20], SourceDayError, "line 2: not valid JSON"),
    "with an unknown system": (
        line_of() + line_of("b", system={"BeOS": 1}),
        SourceDayError,
        r"ndjson: line 2, package 'b': system has an unknown category \('BeOS'\)",
    ),
    "with two spellings of a package": (
        line_of("zope.interface") + line_of("Zope-Interface"),
        IngestError,
        "more than once",
    ),
    "with a package twice": (line_of() + line_of(), IngestError, "more than once"),
    "with names that are none": (line_of("a" * 201) + line_of("a b"), Exception, "2 rejected"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
async def test_a_bad_file_is_one_line_and_loses_nothing(
    engine: AsyncEngine, tmp_path: Path, fault: str
) -> None:
    content, error, told = BAD_FILES[fault]
    await publish(engine, days_ago(7), *ROWS)
    before = await everything(engine)
    (tmp_path / f"{DAY}.ndjson").write_bytes(content)
    with pytest.raises(error, match=told) as caught:
        await ingest(engine, source_of(tmp_path / "{day}.ndjson"))
    assert "\n" not in str(caught.value)
    after = await everything(engine)
    assert {name: rows for name, rows in after.items() if not name.startswith("held")} == {
        name: rows for name, rows in before.items() if not name.startswith("held")
    }


@pytest.mark.parametrize(
    ("suffix", "content"), [(".ndjson", b""), (".csv", b"package,with_mirrors,without_mirrors\n")]
)
async def test_a_file_without_rows_is_no_day_without_downloads(
    engine: AsyncEngine, tmp_path: Path, suffix: str, content: bytes
) -> None:
    """Only the list of an instance can tell that followed packages had no downloads."""
    (tmp_path / f"{DAY}{suffix}").write_bytes(content)
    with pytest.raises(SourceDayError, match=rf"{DAY}{suffix} has no rows"):
        await ingest(engine, source_of(tmp_path / f"{{day}}{suffix}"), policy=FOLLOWED)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("dump_format", DumpFormat)
async def test_a_day_without_downloads_is_exported_and_ingested(
    engine: AsyncEngine, folder: DumpFolder, dump_format: DumpFormat
) -> None:
    published = await ingest(engine, GivenSource({}), policy=FOLLOWED)
    await export_all(engine, folder, dump_format)
    again = await ingest(engine, source_of(folder.path, "flask"), policy=FOLLOWED)
    assert (again.packages, again.downloads, again.digest) == (0, 0, published.digest)
    assert again.breakdowns == published.breakdowns


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("packages", "told"),
    [(None, "has only some packages"), ("flask,numpy", "has no figures of 'numpy'")],
)
async def test_a_file_of_other_packages(
    engine: AsyncEngine, folder: DumpFolder, packages: str | None, told: str
) -> None:
    await ingest(engine, GivenSource({DAY: [downloads("flask", 1)]}), policy=FOLLOWED)
    await export_all(engine, folder)
    (dump,) = parse((folder.path / INDEX_NAME).read_bytes()).data
    assert dump.followed == "flask"
    with pytest.raises(SourceDayError, match=f"{DAY} listed in .* {told}"):
        await read(source_of(folder.path, packages))


async def test_a_backfill_stops_after_three_days_with_the_same_fault(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    """Days with different faults, or with valid days between them, do not stop it."""
    wrong, right = line_of(system={"BeOS": 1}), line_of()
    contents = [wrong, line_of(with_mirrors=-1), wrong, right, wrong, wrong, wrong, right]
    for ago, content in enumerate(contents):
        (tmp_path / f"{days_ago(ago)}.ndjson").write_bytes(content)
    tried = []
    async with ingest_lock(engine) as lock:
        context = PublishContext(engine, FORCED, lambda: NOW, lock)
        ingester = DayIngester(context, source_of(tmp_path / "{day}.ndjson"))
        message = "3 days in a row have the same fault, so no more are tried: system has an unknown"
        with pytest.raises(RepeatedFaultError, match=message):  # noqa: PT012
            async for outcome in ingester.backfill(days_ago(ago) for ago in range(len(contents))):
                tried.append(outcome.error is None)  # noqa: PERF401
    assert tried == [content == right for content in contents[:-1]]


@pytest.mark.parametrize(
    ("create", "told"), [(os.mkfifo, "not a regular file"), (os.mkdir, "Is a directory")]
)
async def test_a_pipe_instead_of_a_file_does_not_block(
    tmp_path: Path, create: Callable[[Path], None], told: str
) -> None:
    create(tmp_path / f"{DAY}.ndjson")
    with pytest.raises(SourceError, match=f"can't be read: {told}"):
        await read(source_of(tmp_path / "{day}.ndjson"))


async def test_a_file_that_differs_from_the_list(engine: AsyncEngine, folder: DumpFolder) -> None:
    await publish(engine, DAY, *ROWS)
    await export_all(engine, folder, DumpFormat.NDJSON)
    (dump,) = folder.dumps().data
    path = folder.path / dump.name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(SourceUnavailableError, match="differs from the list"):
        await read(source_of(folder.path))
    path.write_bytes(content + b"x")
    with pytest.raises(SourceDayError, match=f"has more than {dump.bytes} bytes"):
        await read(source_of(folder.path))
    path.unlink()
    with pytest.raises(SourceUnavailableError, match="is listed but missing"):
        await read(source_of(folder.path))


async def _list_as(engine: AsyncEngine, folder: DumpFolder, **changes: object) -> None:
    """Export the day, and change what is listed of it."""
    await publish(engine, DAY, *ROWS)
    await export_all(engine, folder, DumpFormat.NDJSON)
    listed = orjson.loads((folder.path / INDEX_NAME).read_bytes())
    listed["data"][0] |= changes
    (folder.path / INDEX_NAME).write_bytes(orjson.dumps(listed))


@pytest.mark.parametrize("figure", ["packages", "downloads", "downloads_with_mirrors"])
async def test_a_list_that_counts_otherwise(
    engine: AsyncEngine, folder: DumpFolder, figure: str
) -> None:
    """No row of the file is published."""
    await _list_as(engine, folder, **{figure: 17})
    before = await everything(engine)
    with pytest.raises(SourceDayError, match="but the list has"):
        await ingest(engine, source_of(folder.path))
    assert await everything(engine) == before


async def test_a_listed_file_with_an_invalid_package_name(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    """Its row would be left out, and the rest would not be what is listed."""
    await _list_as(engine, folder)
    (dump,) = folder.dumps().data
    path = folder.path / dump.name
    content = gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"flask"', b'"Flask"'))
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    await _list_as(engine, folder, bytes=len(content), sha256=sha256)
    path.write_bytes(content)
    with pytest.raises(SourceDayError, match="'Flask' is not the normalised name of a package"):
        await ingest(engine, source_of(folder.path))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"source": "sample"}, "the name should be sample-"),
        ({"day": str(days_ago(1))}, f"the name should be downloads-{days_ago(1)}-"),
        ({"format": "csv"}, "the name should be .*csv.gz"),
        ({"digest": "0" * 64}, f"the name should be downloads-{DAY}-000000000000.ndjson.gz"),
        ({"name": f"sample-{DAY}-000000000000.ndjson.gz"}, "the name should be downloads-"),
    ],
    ids=str,
)
async def test_a_list_that_contradicts_itself(
    engine: AsyncEngine, folder: DumpFolder, changes: dict[str, str], told: str
) -> None:
    await _list_as(engine, folder, **changes)
    with pytest.raises(SourceError, match=rf"is not a list of dumps: data\.0: .*{told}"):
        await read(source_of(folder.path))


async def test_a_list_with_excessive_sizes(
    engine: AsyncEngine, folder: DumpFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No list makes a file larger than any may be."""
    await publish(engine, DAY, *ROWS)
    await export_all(engine, folder)
    monkeypatch.setattr(file, "MAX_FILE_BYTES", 100)
    assert folder.dumps().data[0].bytes > 100
    with pytest.raises(SourceDayError, match="has more than 100 bytes"):
        await read(source_of(folder.path))


async def test_a_list_can_not_name_files_in_other_folders(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    await _list_as(engine, folder, url="/etc/passwd")
    assert len(await read(source_of(folder.path))) == 3
    (folder.path / INDEX_NAME).unlink()
    await _list_as(engine, folder, name="../../etc/passwd")
    with pytest.raises(SourceError, match=r"is not a list of dumps: data\.0\.name"):
        await read(source_of(folder.path))


async def test_a_folder_without_a_list(folder: DumpFolder) -> None:
    with pytest.raises(SettingsError, match="INGEST_FILES: there is no folder"):
        source_of(folder.path)
    for named in ("{day}.csv", "{day}/downloads.csv", "of/{day}.csv"):
        with pytest.raises(SettingsError, match="INGEST_FILES: there is no folder"):
            source_of(folder.path / named)
    folder.path.mkdir()
    source_of(folder.path / "{day}/downloads.csv")
    with pytest.raises(SourceError, match=r"there is no list of dumps at .*_index\.json"):
        await read(source_of(folder.path))


def test_the_location_of_files_must_be_set() -> None:
    with pytest.raises(SettingsError, match="INGEST_FILES: should be set"):
        create_source(Settings())


async def test_a_stop_while_a_file_is_read(tmp_path: Path) -> None:
    lines = b"".join(line_of(f"p{number}") for number in range(20_000))
    (tmp_path / f"{DAY}.ndjson").write_bytes(lines)
    reading = await source_of(tmp_path / "{day}.ndjson").read(DAY)
    task = asyncio.ensure_future(anext(aiter(reading.batches)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limits.BATCH_ROWS < 20_000


async def test_the_job_retries_a_day_without_a_file(
    database_url: str, engine: AsyncEngine, folder: DumpFolder
) -> None:
    """The days that are there are published meanwhile, and it is when it comes."""
    for ago in (0, 1, 2):
        await publish(engine, days_ago(ago), *ROWS)
    await export_all(engine, folder)
    listed = folder.dumps()
    folder.write_list(Dumps.listed(dump for dump in listed.data if dump.day != DAY))
    async with engine.begin() as connection:
        for table in (daily_downloads, packages, ingested_days):
            await connection.execute(delete(table))
    settings = Settings.model_validate(
        {
            "ingest_files": str(folder.path),
            "ingest_max_days_per_run": 3,
            "ingest_schedule": "0 0 * * *",
        }
    )
    now = NOW
    again = await run_ingest_job(settings, database_url, lambda: NOW)
    repository = DownloadsRepository(engine, RETENTION_DAYS)
    assert [one.day for one in await repository.published_days()] == [days_ago(2), days_ago(1)]
    (failed,) = (run for run in await latest_runs(engine, 9) if run.day == DAY)
    assert failed.error == f"{folder.path}/_index.json lists no file of {DAY} yet"
    assert again
    assert timedelta(minutes=29) < again - now < timedelta(minutes=32)
