"""Days on their way from the database to a bucket, of a server that speaks as S3 does."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.clock import utc_now
from app.dumps.export import export, published_days, remove_outdated
from app.dumps.listing import INDEX_NAME, Dump, DumpFormat
from app.dumps.stores.bucket import DumpBucket
from app.dumps.stores.folder import DumpFolder
from app.dumps.stores.store import DumpStore
from app.errors import DumpsError
from app.ingest.sources.file import create_source
from app.settings import Settings
from tests.clock import ManualClock
from tests.days import RETENTION_DAYS, days_ago, downloads, publish, rows_of
from tests.dumps.s3 import CHANGES, KEY, KEY_ID, S3Server, s3_server
from tests.processes import assert_fails, free_port, run, wait_for

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def clock() -> ManualClock:
    """The clock starts at the machine's time, which the servers use for objects."""
    return ManualClock(utc_now())


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def store(server: S3Server, clock: ManualClock) -> DumpBucket:
    return DumpBucket.at(server.url_of(f"{server.new_bucket()}/deep/dumps"), clock)


@pytest.fixture(scope="module")
def google_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DumpBucket]:
    port = free_port()
    emulator = str(Path(sys.executable).with_name("gcp-storage-emulator"))
    command = [emulator, "start", "--host", "127.0.0.1", "--in-memory"]
    with (
        (tmp_path_factory.mktemp("google") / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--default-bucket", "bucket"],
            env=os.environ | {"PORT": str(port)},
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            wait_for(port, process)
            query = f"endpoint_override=127.0.0.1:{port}&scheme=http&retry_limit_seconds=5"
            yield DumpBucket.at(f"gs://anonymous@bucket/deep/dumps?{query}", ManualClock(utc_now()))
        finally:
            process.terminate()


@pytest.fixture
def _nothing_is_recent(clock: ManualClock) -> None:
    clock.advance(days=1)


async def _export(
    engine: AsyncEngine, store: DumpStore, dump_format: DumpFormat = DumpFormat.PARQUET
) -> list[Dump]:
    """Export as the command does, and return the files that were written."""
    days = await published_days(engine)
    with store.opened():
        remove_outdated(store, days, retention_days=RETENTION_DAYS)
        exported = export(engine, store, days, dump_format)
        done = [one.dump async for one in exported if one.is_new]
        return [dump for dump in done if isinstance(dump, Dump)]


def _objects(store: DumpBucket) -> dict[str, bytes]:
    found = store.filesystem.get_file_info(FileSelector(store.path))
    return {
        one.base_name: store.filesystem.open_input_stream(one.path, compression=None).read()
        for one in found
        if one.is_file
    }


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _assert_listed_is_whole(store: DumpBucket) -> None:
    objects = _objects(store)
    for dump in store.dumps().data:
        assert len(objects[dump.name]) == dump.bytes
        assert hashlib.sha256(objects[dump.name]).hexdigest() == dump.sha256


def _assert_whole(store: DumpBucket) -> None:
    """Assert that exactly the listed files exist, with the listed content."""
    _assert_listed_is_whole(store)
    assert _objects(store).keys() == {*(dump.name for dump in store.dumps().data), INDEX_NAME}


def _changes(server: S3Server, since: int) -> list[tuple[str, str]]:
    return [request for request in server.requests[since:] if request[0] in CHANGES]


@pytest.mark.parametrize("dump_format", DumpFormat)
async def test_a_bucket_contains_the_same_files_as_a_folder(
    engine: AsyncEngine, store: DumpBucket, tmp_path: Path, dump_format: DumpFormat
) -> None:
    await publish(engine, days_ago(1), downloads("flask", 5, ci={"true": 5}))
    await publish(engine, days_ago(0), downloads("a", 1), downloads("b", 0, mirrors=2))
    written = await _export(engine, store, dump_format)
    assert [dump.day for dump in written] == [days_ago(0), days_ago(1)]
    assert await _export(engine, DumpFolder(tmp_path), dump_format) == written
    assert _objects(store) == _files(tmp_path)
    _assert_whole(store)


async def test_in_google_cloud_storage(
    engine: AsyncEngine, google_store: DumpBucket, tmp_path: Path
) -> None:
    await publish(engine, days_ago(1), downloads("flask", 5, ci={"true": 5}))
    await publish(engine, days_ago(0), downloads("a", 1), downloads("b", 0, mirrors=2))
    written = await _export(engine, google_store)
    assert await _export(engine, DumpFolder(tmp_path)) == written
    assert _objects(google_store) == _files(tmp_path)
    assert await _export(engine, google_store) == []
    assert isinstance(google_store.clock, ManualClock)
    google_store.clock.advance(days=1)
    await publish(engine, days_ago(0), downloads("a", 2))
    assert len(await _export(engine, google_store)) == 1
    _assert_whole(google_store)


async def test_a_missing_bucket_in_google_cloud_storage(
    engine: AsyncEngine, google_store: DumpBucket
) -> None:
    await publish(engine, days_ago(0), downloads("flask", 5))
    none = DumpBucket(google_store.filesystem, "gs", "no-such-bucket/dumps", ManualClock(utc_now()))
    with pytest.raises(DumpsError, match=r"the dumps in gs://no-such-bucket/dumps: .*NOT_FOUND"):
        await _export(engine, none)


async def test_a_bucket_without_a_prefix(engine: AsyncEngine, server: S3Server) -> None:
    name = server.new_bucket()
    await publish(engine, days_ago(0), downloads("flask", 5))
    for address in (server.url_of(name), server.url_of(f"{name}/")):
        store = DumpBucket.at(address, ManualClock(utc_now()))
        assert str(store) == f"s3://{name}"
        await _export(engine, store)
        _assert_whole(store)


async def test_a_second_export_changes_nothing(
    engine: AsyncEngine, store: DumpBucket, server: S3Server
) -> None:
    await publish(engine, days_ago(1), downloads("flask", 5))
    await publish(engine, days_ago(0), downloads("flask", 6))
    assert len(await _export(engine, store)) == 2
    since = len(server.requests)
    assert await _export(engine, store) == []
    assert _changes(server, since) == []
    assert len(server.requests) > since


@pytest.mark.usefixtures("_nothing_is_recent")
async def test_a_changed_day_replaces_its_file(engine: AsyncEngine, store: DumpBucket) -> None:
    await publish(engine, days_ago(1), downloads("flask", 5))
    await publish(engine, days_ago(0), downloads("flask", 6))
    await _export(engine, store)
    strangers = ["README.md", "downloads-2026-11-20.parquet"]
    for name in strangers:
        store.filesystem.open_output_stream(f"{store.path}/{name}").close()
    await publish(engine, days_ago(1), downloads("flask", 7))
    (changed,) = await _export(engine, store)
    assert changed.day == days_ago(1)
    assert len(store.dumps().data) == 2
    for name in strangers:
        store.filesystem.delete_file(f"{store.path}/{name}")
    _assert_whole(store)


async def test_recent_unlisted_objects_stay(
    engine: AsyncEngine, store: DumpBucket, clock: ManualClock
) -> None:
    """Another export may be about to list such an object."""
    await publish(engine, days_ago(0), downloads("flask", 5))
    (old,) = await _export(engine, store)
    await publish(engine, days_ago(0), downloads("flask", 6))
    (new,) = await _export(engine, store)
    assert _objects(store).keys() == {old.name, new.name, INDEX_NAME}
    clock.advance(days=1)
    await _export(engine, store)
    _assert_whole(store)


async def test_a_missing_or_truncated_object_is_written_again(
    engine: AsyncEngine, store: DumpBucket
) -> None:
    await publish(engine, days_ago(1), downloads("flask", 5))
    await publish(engine, days_ago(0), downloads("flask", 6))
    latest, before = await _export(engine, store)
    store.filesystem.delete_file(f"{store.path}/{latest.name}")
    with store.filesystem.open_output_stream(f"{store.path}/{before.name}") as file:
        file.write(b"cut")
    assert len(await _export(engine, store)) == 2
    _assert_whole(store)


async def test_two_exports_at_once(engine: AsyncEngine, store: DumpBucket) -> None:
    """One's list may miss what the other has written, and the next export lists it."""
    for ago in (2, 1, 0):
        await publish(engine, days_ago(ago), downloads("flask", 5 + ago))
    days = await published_days(engine)
    both = [export(engine, store, order, DumpFormat.CSV) for order in (days, days[::-1])]
    for _ in days:
        for one in both:
            await anext(one)
            _assert_listed_is_whole(store)
    for one in both:
        assert [left async for left in one] == []
    remove_outdated(store, days, retention_days=RETENTION_DAYS)
    await _export(engine, store, DumpFormat.CSV)
    assert len(store.dumps().data) == 3
    _assert_whole(store)


async def test_days_missing_in_an_outdated_list_are_exported_again(
    engine: AsyncEngine, store: DumpBucket
) -> None:
    for ago in (1, 0):
        await publish(engine, days_ago(ago), downloads("flask", 5 + ago))
    latest, before = await _export(engine, store)
    store.write_list(store.dumps().model_copy(update={"data": (latest,)}))
    assert await _export(engine, store) == [before]
    _assert_whole(store)


def test_a_file_of_several_parts(store: DumpBucket, server: S3Server) -> None:
    content = os.urandom(25 * 2**20)
    since = len(server.requests)
    with store.new_file("large") as new:
        new.file.write(content)
    assert new.bytes == len(content)
    assert new.sha256 == hashlib.sha256(content).hexdigest()
    assert len(_changes(server, since)) > 3
    assert _objects(store) == {"large": content}


def test_a_failed_upload_leaves_nothing(store: DumpBucket, server: S3Server) -> None:
    since = len(server.requests)
    with suppress(KeyboardInterrupt), store.new_file("one") as new:
        new.file.write(b"half")
        raise KeyboardInterrupt
    assert server.requests[since:] == []


@pytest.mark.usefixtures("_nothing_is_recent")
async def test_a_second_export_completes_one_with_a_refused_request(
    engine: AsyncEngine, store: DumpBucket, server: S3Server
) -> None:
    """Of every request that changes the bucket: before it, and after it. What was listed stays
    whole until what takes its place is.
    """
    await publish(engine, days_ago(1), downloads("flask", 5))
    await publish(engine, days_ago(0), downloads("flask", 6))
    await _export(engine, store)
    refusals = 0
    for is_first_done in (False, True):
        number = 0
        is_through = False
        while not is_through:
            number += 1
            published = await publish(engine, days_ago(1), downloads("flask", 1000 + refusals))
            with server.refusing_from(number, is_first_done=is_first_done):
                try:
                    await _export(engine, store)
                except DumpsError as error:
                    assert server.is_refusing
                    refusals += 1
                    told = str(error)
                    assert told.startswith(f"the dumps in {store}: ")
                    assert "\n" not in told
                else:
                    # Whether what was removed has a parent left is asked, and not told.
                    is_through = not server.is_refusing
            _assert_listed_is_whole(store)
            await _export(engine, store)
            _assert_whole(store)
            mended = store.dumps().of(days_ago(1))
            assert mended
            assert mended.digest == published.digest
    # A file, the list, and what is removed.
    assert refusals >= 2 * 3


async def test_a_foreign_list_is_not_overwritten(engine: AsyncEngine, store: DumpBucket) -> None:
    await publish(engine, days_ago(0), downloads("flask", 5))
    with store.new_file(INDEX_NAME) as new:
        new.file.write(b"[]")
    with pytest.raises(DumpsError, match=rf"{store}/_index\.json is not a list of dumps"):
        await _export(engine, store)
    assert _objects(store) == {INDEX_NAME: b"[]"}


async def test_a_missing_bucket(engine: AsyncEngine, server: S3Server) -> None:
    await publish(engine, days_ago(0), downloads("flask", 5))
    for path in ("no-such-bucket", "no-such-bucket/dumps"):
        with pytest.raises(DumpsError, match=f"the dumps in s3://{path}: .*NO_SUCH_BUCKET"):
            await _export(engine, DumpBucket.at(server.url_of(path), ManualClock(utc_now())))


@pytest.mark.parametrize(
    "address",
    ["s3://key:sec/ret@bucket/prefix", "s3://key:secret@bucket/pre fix", "s3://bucket/?secret=1"],
)
def test_an_invalid_address(address: str) -> None:
    with pytest.raises(DumpsError, match="should look like s3://bucket/prefix") as caught:
        DumpBucket.at(address, ManualClock(utc_now()))
    assert "secret" not in str(caught.value)


async def test_the_command(database_url: str, engine: AsyncEngine, server: S3Server) -> None:
    path = f"{server.new_bucket()}/dumps"
    await publish(engine, days_ago(0), downloads("flask", 5))
    result = run("export", "--to", server.url_of(path), DATABASE_URL=database_url)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"1 of 1 days written to s3://{path}, 0 unchanged\n"
    assert result.stderr.startswith("wrote downloads-")
    # The credentials that the cloud's own tools take.
    path = f"{server.new_bucket()}/dumps"
    result = run(
        *("export", "--to", f"s3://{path}?region=us-east-1", "--format", "csv"),
        DATABASE_URL=database_url,
        AWS_ACCESS_KEY_ID="KEYOFENVIRONMENT",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_ENDPOINT_URL=f"http://{server.address}",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"1 of 1 days written to s3://{path}, 0 unchanged\n"
    for key in (KEY_ID, "KEYOFENVIRONMENT"):
        assert any(f"Credential={key}/" in shown for shown in server.authorizations)


async def test_errors_of_the_command(
    database_url: str, engine: AsyncEngine, server: S3Server
) -> None:
    await publish(engine, days_ago(0), downloads("flask", 5))
    path = f"{server.new_bucket()}/dumps"
    with server.refusing_from(0):
        refused = run("export", "--to", server.url_of(path), DATABASE_URL=database_url)
    away = run(
        *(
            "export",
            "--to",
            server.url_of(path).replace(server.address, f"127.0.0.1:{free_port()}"),
        ),
        DATABASE_URL=database_url,
    )
    none = run("export", "--to", server.url_of("no-such-bucket"), DATABASE_URL=database_url)
    for result, bucket_path, told in (
        (refused, path, "ACCESS_DENIED"),
        (away, path, "NETWORK_CONNECTION"),
        (none, "no-such-bucket", "NO_SUCH_BUCKET"),
    ):
        assert_fails(result, 1, f"the dumps in s3://{bucket_path}: ", told)
        assert KEY not in result.stderr


async def test_a_public_bucket_can_be_ingested(
    engine: AsyncEngine, store: DumpBucket, server: S3Server
) -> None:
    """The list's addresses are relative to its own."""
    await publish(engine, days_ago(0), downloads("flask", 5))
    await _export(engine, store, DumpFormat.NDJSON)
    source = create_source(
        Settings(ingest_files=SecretStr(f"http://{server.address}/{store.path}/"))
    )
    await source.origin(days_ago(0))
    reading = await source.read(days_ago(0))
    assert await rows_of(reading) == [downloads("flask", 5)]
