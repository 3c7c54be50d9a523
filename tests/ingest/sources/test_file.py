"""Files as a source: dumps of another instance, and people's own."""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date, timedelta
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
from app.domain.downloads import PackageDownloads, PublishedDay
from app.dumps.export import export, published_days
from app.dumps.formats import limits
from app.dumps.listing import INDEX_NAME, DumpFormat, Dumps
from app.dumps.stores.folder import DumpFolder
from app.errors import (
    HeldDayError,
    IngestError,
    MixedDataError,
    SettingsError,
    SourceDayError,
    SourceError,
    SourceUnavailableError,
)
from app.ingest import pipeline
from app.ingest.policy import PublishPolicy
from app.ingest.publish import Publisher
from app.ingest.runs import Run, ingest_lock
from app.ingest.scheduler import run_ingest_job
from app.ingest.sources import file
from app.ingest.sources.file import FileSource, create_source
from app.ingest.sources.sample import SampleSource
from app.ingest.sources.source import Source
from app.settings import Settings
from tests.clock import NOW
from tests.contents import everything
from tests.days import (
    FORCED,
    POLICY,
    RETENTION_DAYS,
    GivenSource,
    days_ago,
    downloads,
    publish,
    rows_of,
)
from tests.dumps.rows import DAYS

ROWS = [
    downloads("flask", {"3.12": 2, "3.9": 1}, mirrors=4),
    downloads("mirrored-only", 0, mirrors=1),
    downloads("requests", {"null": 7}),
]
DAY = days_ago(0)


def source_of(location: Path | str) -> FileSource:
    return create_source(Settings.model_validate({"ingest_files": str(location)}))


async def read(source: FileSource, day: date = DAY) -> list[PackageDownloads]:
    """As the pipeline does."""
    await source.origin(day)
    await source.begin(day)
    return await rows_of(await source.read(day))


async def ingest(
    engine: AsyncEngine, source: Source, day: date = DAY, policy: PublishPolicy = FORCED
) -> PublishedDay:
    published = await pipeline.ingest_day(Publisher(engine, policy, lambda: NOW), source, day)
    assert isinstance(published, PublishedDay)
    return published


@pytest.fixture
def folder(tmp_path: Path) -> DumpFolder:
    return DumpFolder(tmp_path / "dumps")


async def export_all(
    engine: AsyncEngine, folder: DumpFolder, dump_format: DumpFormat = DumpFormat.PARQUET
) -> None:
    days = await published_days(engine)
    with folder.opened():
        exported = export(engine, folder, days, dump_format)
        assert len([one async for one in exported]) == len(days)


# What export writes


@pytest.mark.parametrize("dump_format", DumpFormat)
async def test_exported_and_ingested_it_is_the_same(
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


@example_settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(day=DAYS, dump_format=st.sampled_from(DumpFormat))
async def test_any_day_exported_and_ingested_is_the_same(
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


async def test_the_breakdowns_that_are_wanted(engine: AsyncEngine, folder: DumpFolder) -> None:
    """All that a file has, unless a setting says which."""
    row = downloads("flask", 5, ci={"null": 5}, country={"US": 3, "null": 2})
    published = await publish(engine, DAY, row)
    await export_all(engine, folder)
    again = await ingest(engine, source_of(folder.path))
    assert (again.digest, list(again.breakdowns)) == (published.digest, ["ci", "country"])
    settings = {"ingest_files": str(folder.path), "ingest_breakdowns": "version,country"}
    fewer = await ingest(engine, create_source(Settings.model_validate(settings)))
    assert list(fewer.breakdowns) == ["country"]


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
    (tmp := folder.path / f"{DAY}.ndjson").write_bytes(_line("flask"))
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


def _line(package: str = "a", **values: object) -> bytes:
    row: dict[str, object] = {
        "package": package,
        "with_mirrors": 1,
        "without_mirrors": 1,
        "python_minor": {"3.9": 1},
        "system": {"linux": 1},
    }
    return orjson.dumps(row | values) + b"\n"


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".ndjson", _line("flask") + _line("requests")),
        (".ndjson.gz", gzip.compress(_line("flask") + _line("requests"))),
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
        _line("Flask") + _line("zope.interface") + _line("no name")
    )
    published = await ingest(engine, source_of(tmp_path / "{day}.ndjson"))
    assert published.packages == 2
    figures = DownloadsRepository(engine, RETENTION_DAYS)
    for package in ("flask", "zope-interface"):
        assert (await figures.recent(package)) is not None


async def test_a_day_that_is_not_there_yet(
    engine: AsyncEngine, folder: DumpFolder, tmp_path: Path
) -> None:
    """Others may be, so the job goes on to them and comes back to it."""
    await publish(engine, days_ago(1), *ROWS)
    await export_all(engine, folder)
    with pytest.raises(SourceDayError, match=rf"index\.json lists no file of {DAY} yet"):
        await read(source_of(folder.path))
    with pytest.raises(SourceDayError, match=f"there is no file of {DAY} yet at .*{DAY}.csv"):
        await read(source_of(tmp_path / "{day}.csv"))


BAD_FILES: dict[str, tuple[bytes, type[Exception], str]] = {
    "of nothing": (b"", Exception, "no rows"),
    "that is cut off": (_line() + _line("b")[:20], SourceDayError, "line 2 is not valid JSON"),
    "of another kind": (b"<html>\n", SourceDayError, "line 1 is not valid JSON"),
    "without a column": (
        _line(system=None),
        SourceDayError,
        "line 1 should have an object for system",
    ),
    "with a number below zero": (
        _line() + _line("b", with_mirrors=-1),
        HeldDayError,
        "1 rows are wrong: an impossible number of downloads",
    ),
    "with numbers that do not add up": (
        _line() + _line("b", system={"linux": 2}),
        HeldDayError,
        "1 rows are wrong: system does not add up to the downloads",
    ),
    "with a number that is none": (
        _line() + _line("b", system={"linux": "1"}),
        HeldDayError,
        "system has a count that is not a positive integer",
    ),
    "with what is no system": (
        _line() + _line("b", system={"BeOS": 1}),
        HeldDayError,
        "1 rows are wrong: system has an unknown category, or too many, such as that of b",
    ),
    "with what is no country": (
        _line("b", country={"US": 1}) + _line("c", country={"Atlantis": 1}),
        HeldDayError,
        "country has an unknown category",
    ),
    "with more versions of Python than it may": (
        _line()
        + _line("b", python_minor=dict.fromkeys((f"3.{number}" for number in range(20_000)), 1)),
        HeldDayError,
        "python_minor has an unknown category, or too many",
    ),
    "with two spellings of a package": (
        _line("zope.interface") + _line("Zope-Interface"),
        IngestError,
        "more than once",
    ),
    "with a package twice": (_line() + _line(), IngestError, "more than once"),
    "with a name that is none": (_line("a" * 2**20), SourceDayError, "more than 1,000 characters"),
    "with names that are none": (_line("a" * 201) + _line("a b"), Exception, "2 rejected"),
    "with what a database can't keep": (
        _line(system={"\0": 1}),
        SourceDayError,
        "line 1 has an invalid category for system",
    ),
}


@pytest.mark.parametrize("fault", BAD_FILES)
async def test_a_bad_file_is_one_line_and_loses_nothing(
    engine: AsyncEngine, tmp_path: Path, fault: str
) -> None:
    content, error, told = BAD_FILES[fault]
    await publish(engine, days_ago(7), *ROWS)
    before = await everything(engine)
    (tmp_path / f"{DAY}.ndjson").write_bytes(content)
    policy = POLICY if error is HeldDayError else FORCED
    with pytest.raises(error, match=told) as caught:
        await ingest(engine, source_of(tmp_path / "{day}.ndjson"), DAY, policy)
    assert "\n" not in str(caught.value)
    after = await everything(engine)
    assert {name: rows for name, rows in after.items() if not name.startswith("held")} == {
        name: rows for name, rows in before.items() if not name.startswith("held")
    }


async def test_a_file_that_is_not_what_is_listed(engine: AsyncEngine, folder: DumpFolder) -> None:
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


@pytest.mark.parametrize("figure", ["packages", "downloads", "downloads_with_mirrors"])
async def test_a_list_that_counts_otherwise(
    engine: AsyncEngine, folder: DumpFolder, figure: str
) -> None:
    """Not one row of it is published."""
    await publish(engine, DAY, *ROWS)
    await export_all(engine, folder)
    before = await everything(engine)
    listed = orjson.loads((folder.path / INDEX_NAME).read_bytes())
    listed["data"][0][figure] += 1
    (folder.path / INDEX_NAME).write_bytes(orjson.dumps(listed))
    with pytest.raises(SourceDayError, match="but the list has"):
        await ingest(engine, source_of(folder.path))
    assert await everything(engine) == before


async def test_a_listed_file_with_a_name_that_is_none(
    engine: AsyncEngine, folder: DumpFolder
) -> None:
    """Its row would be left out, and the rest would not be what is listed."""
    await publish(engine, DAY, *ROWS)
    await export_all(engine, folder, DumpFormat.NDJSON)
    listed = orjson.loads((folder.path / INDEX_NAME).read_bytes())
    path = folder.path / listed["data"][0]["name"]
    content = gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"flask"', b'"Flask"'))
    path.write_bytes(content)
    listed["data"][0]["bytes"] = len(content)
    listed["data"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder.path / INDEX_NAME).write_bytes(orjson.dumps(listed))
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
    await publish(engine, DAY, *ROWS)
    await export_all(engine, folder, DumpFormat.NDJSON)
    listed = orjson.loads((folder.path / INDEX_NAME).read_bytes())
    listed["data"][0] |= changes
    (folder.path / INDEX_NAME).write_bytes(orjson.dumps(listed))
    with pytest.raises(SourceError, match=rf"is not a list of dumps: data\.0: .*{told}"):
        await read(source_of(folder.path))


async def test_a_list_that_claims_too_much(
    engine: AsyncEngine, folder: DumpFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No list makes a file larger than any may be."""
    await publish(engine, DAY, *ROWS)
    await export_all(engine, folder)
    monkeypatch.setattr(file, "MAX_FILE_BYTES", 100)
    assert folder.dumps().data[0].bytes > 100
    with pytest.raises(SourceDayError, match="has more than 100 bytes"):
        await read(source_of(folder.path))


@pytest.mark.parametrize("url", ["https://[", "//[::1", "http://x:y@[/"])
async def test_a_list_with_an_address_that_is_none(
    engine: AsyncEngine, folder: DumpFolder, url: str
) -> None:
    """The other days are read."""
    for ago in (0, 1):
        await publish(engine, days_ago(ago), *ROWS)
    await export_all(engine, folder)
    listed = orjson.loads((folder.path / INDEX_NAME).read_bytes())
    bad, good = listed["data"]
    bad["url"] = url
    content = (folder.path / good["name"]).read_bytes()
    answers = {
        "/index.json": _response(200, orjson.dumps(listed)),
        f"/{good['name']}": _response(200, content),
    }
    async with server(answers) as address:
        source = source_of(f"{address}/")
        told = f"lists an invalid address for {DAY}"
        with pytest.raises(SourceDayError, match=told):
            await read(source)
        assert len(await read(source, days_ago(1))) == 3


async def test_no_server_far_away_has_this_machine_asked(tmp_path: Path) -> None:
    """What is listed there, or redirected to, is not asked for within."""
    async with server({OWN: _response(200, _line())}) as address:
        for files, error in (
            (file.WebFiles(allows_http=False), "files are only fetched from https://"),
            (file.WebFiles(allows_http=True), None),
        ):
            source = FileSource(files, f"{address}/{{day}}.ndjson")
            if error:
                with pytest.raises(SourceError, match=error):
                    await read(source)
            else:
                assert len(await read(source)) == 1
    remote = source_of("https://stats.example/api/dumps")
    assert isinstance(remote._files, file.WebFiles)
    assert not remote._files._allows_http


async def test_a_list_names_no_file_elsewhere(engine: AsyncEngine, folder: DumpFolder) -> None:
    await publish(engine, DAY, *ROWS)
    await export_all(engine, folder)
    listed = orjson.loads((folder.path / INDEX_NAME).read_bytes())
    listed["data"][0]["url"] = "/etc/passwd"
    (folder.path / INDEX_NAME).write_bytes(orjson.dumps(listed))
    assert len(await read(source_of(folder.path))) == 3
    listed["data"][0]["name"] = "../../etc/passwd"
    (folder.path / INDEX_NAME).write_bytes(orjson.dumps(listed))
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
    with pytest.raises(SourceError, match=r"there is no list of dumps at .*index\.json"):
        await read(source_of(folder.path))


async def test_what_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / f"{DAY}.csv").mkdir()
    with pytest.raises(SourceError, match="can't be read: Is a directory"):
        await read(source_of(tmp_path / "{day}.csv"))


def test_where_the_files_are_has_to_be_set() -> None:
    with pytest.raises(SettingsError, match="INGEST_FILES: should be set"):
        create_source(Settings())


# Over HTTP

Answers = Mapping[str, bytes | Callable[[], bytes]]


@asynccontextmanager
async def server(answers: Answers) -> AsyncIterator[str]:
    """Answers each path with these bytes, as they are, and closes the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        path = request.split()[1].decode()
        found = answers.get(path, _response(404, b"no"))
        writer.write(found if isinstance(found, bytes) else found())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    running = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with running:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"


def _response(status: int, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*head, *headers, "", ""]).encode() + body


OWN = f"/{DAY}.ndjson"


async def _read_from(answers: Answers, path: str = "/{day}.ndjson") -> list[PackageDownloads]:
    async with server(answers) as address:
        return await read(source_of(f"{address}{path}"))


async def test_a_file_over_http() -> None:
    rows = await _read_from({OWN: _response(200, _line("flask") + _line("numpy"))})
    assert [row.package for row in rows] == ["flask", "numpy"]


async def test_a_file_to_which_one_is_sent_on() -> None:
    answers = {OWN: _response(302, b"", "Location: /there"), "/there": _response(200, _line())}
    assert len(await _read_from(answers)) == 1


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (_response(404), SourceDayError, f"there is no file of {DAY} yet at http://127"),
        (_response(410), SourceDayError, f"there is no file of {DAY} yet"),
        (_response(403), SourceError, "answers with status 403"),
        (_response(204), SourceError, "answers with status 204"),
        (_response(500), SourceUnavailableError, "answers with status 500"),
        (_response(503, b"", "Retry-After: 0"), SourceUnavailableError, "status 503"),
        (_response(429, b"", "Retry-After: soon"), SourceUnavailableError, "status 429"),
        (_response(302, b"", f"Location: {OWN}"), SourceError, "redirects"),
        (
            _response(302, b"", "Location: http://example.com/"),
            SourceError,
            "only fetched from https://",
        ),
        (
            _response(302, b"", "Location: file:///etc/passwd"),
            SourceError,
            "only fetched from https://",
        ),
        (_response(200, _line(), length=999), SourceUnavailableError, "peer closed connection"),
        (b"", SourceUnavailableError, "disconnected"),
        (b"no HTTP\r\n\r\n", SourceUnavailableError, "illegal"),
        (
            _response(200, gzip.compress(_line()), "Content-Encoding: gzip"),
            SourceError,
            "an encoding that was not requested",
        ),
        (_response(200, b"<html>\n"), SourceDayError, "line 1 is not valid JSON"),
    ],
    ids=lambda value: value[9:12].decode() if isinstance(value, bytes) else "",
)
async def test_a_server_at_fault(answer: bytes, error: type[SourceError], told: str) -> None:
    with pytest.raises(error, match=told) as caught:
        await _read_from({OWN: answer})
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


async def test_a_server_that_is_away() -> None:
    async with server({}) as address:
        pass
    with pytest.raises(SourceUnavailableError, match="connection"):
        await read(source_of(f"{address}/{{day}}.csv"))


async def test_a_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "TIMEOUT_SECONDS", 1.0)
    given_up, closed = asyncio.Event(), asyncio.Event()

    async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await given_up.wait()
        writer.close()
        closed.set()

    running = await asyncio.start_server(wait, "127.0.0.1", 0)
    port = running.sockets[0].getsockname()[1]
    with pytest.raises(SourceUnavailableError, match="ReadTimeout"):
        await read(source_of(f"http://127.0.0.1:{port}/{{day}}.csv"))
    given_up.set()
    await closed.wait()
    running.close()


async def test_more_than_a_file_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "MAX_FILE_BYTES", 100)
    with pytest.raises(SourceDayError, match="has more than 100 bytes"):
        await _read_from({OWN: _response(200, _line() * 2)})


async def test_secrets_of_an_address_are_not_told() -> None:
    async with server({}) as address:
        host = address.removeprefix("http://")
        source = source_of(f"http://user:secret@{host}/{{day}}.csv?token=secret")
        with pytest.raises(SourceDayError, match="yet at") as caught:
            await read(source)
    assert "secret" not in str(caught.value)
    assert f"http://{host}/{DAY}.csv" in str(caught.value)


async def test_what_passes_is_tried_again(
    engine: AsyncEngine, folder: DumpFolder, quick_retries: None
) -> None:
    """A list that is a moment old, a server that asks to wait, and one that breaks off."""
    await publish(engine, DAY, *ROWS)
    await export_all(engine, folder)
    (dump,) = folder.dumps().data
    before = await everything(engine)
    content = (folder.path / dump.name).read_bytes()
    stale = {"sha256": hashlib.sha256(b"").hexdigest()}
    lists = [
        orjson.dumps({"data": [{**dump.model_dump(mode="json"), **stale}], "type": "dumps"}),
        (folder.path / INDEX_NAME).read_bytes(),
    ]
    files = [
        _response(200, content),
        _response(429, b"", "Retry-After: 0"),
        _response(200, content[:50], length=len(content)),
        _response(200, content),
    ]
    answers: Answers = {
        "/dumps/index.json": lambda: _response(200, lists.pop(0) if len(lists) > 1 else lists[0]),
        f"/dumps/{dump.name}": lambda: files.pop(0),
    }
    async with server(answers) as address, ingest_lock(engine) as lock:
        source = source_of(f"{address}/dumps/")
        run = Run(Publisher(engine, FORCED, lambda: NOW, lock), source)
        published = await run.ingest_day(DAY)
    assert isinstance(published, PublishedDay)
    assert published.digest == dump.digest
    assert files == []
    assert (await everything(engine))["rows"] == before["rows"]


async def test_a_list_is_asked_for_once_in_a_while(
    engine: AsyncEngine, folder: DumpFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ago in range(3):
        await publish(engine, days_ago(ago), *ROWS)
    await export_all(engine, folder)
    asked = 0

    def listed() -> bytes:
        nonlocal asked
        asked += 1
        return _response(200, (folder.path / INDEX_NAME).read_bytes())

    answers: dict[str, bytes | Callable[[], bytes]] = {"/index.json": listed}
    for dump in folder.dumps().data:
        answers[f"/{dump.name}"] = _response(200, (folder.path / dump.name).read_bytes())
    async with server(answers) as address:
        source = source_of(f"{address}/index.json")
        for ago in range(3):
            assert len(await read(source, days_ago(ago))) == 3
        assert asked == 1
        monkeypatch.setattr(file, "LISTING_LASTS_SECONDS", -1)
        await read(source)
        assert asked == 2


async def test_stopped_while_it_reads(tmp_path: Path) -> None:
    lines = b"".join(_line(f"p{number}") for number in range(20_000))
    (tmp_path / f"{DAY}.ndjson").write_bytes(lines)
    reading = await source_of(tmp_path / "{day}.ndjson").read(DAY)
    task = asyncio.ensure_future(anext(aiter(reading.batches)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limits.BATCH_ROWS < 20_000


async def test_the_job_comes_back_to_a_day_that_is_not_there_yet(
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
    assert failed.error == f"{folder.path}/index.json lists no file of {DAY} yet"
    assert again
    assert timedelta(minutes=29) < again - now < timedelta(minutes=32)


async def test_the_job_tries_again_what_is_away(
    database_url: str, engine: AsyncEngine, quick_retries: None
) -> None:
    async with server({}) as address:
        pass
    settings = Settings.model_validate(
        {"ingest_files": f"{address}/dumps/", "ingest_schedule": "0 0 * * *"}
    )
    now = NOW
    again = await run_ingest_job(settings, database_url, lambda: NOW)
    # The other days would meet the same.
    (failed,) = await latest_runs(engine, 9)
    assert failed.error
    assert f"{address}/dumps/index.json: " in failed.error
    assert again
    assert timedelta(minutes=29) < again - now < timedelta(minutes=32)
