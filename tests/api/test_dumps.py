"""The list of dumps, and the files."""

import asyncio
import gzip
import os
import shutil
from datetime import date
from hashlib import sha256
from pathlib import Path
from threading import current_thread, main_thread

import httpx
import pytest
import zstandard
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Message

from app.api import prepared
from app.api.dumps import DumpResponse, Dumps
from app.api.negotiation import compressed
from app.db.engine import create_engine
from app.dumps.export import export, published_days
from app.dumps.listing import INDEX_NAME, Dump, DumpFormat
from app.dumps.stores.folder import DumpFolder
from app.ingest.publish import PublishContext
from app.ingest.rollup import months_of, roll_up
from app.main import create_app
from app.settings import IngestSource, Settings
from tests.clock import NOW
from tests.days import POLICY, days_ago, downloads, publish

EMPTY = b'{"data":[],"months":[],"type":"dumps"}'


@pytest.fixture
def folder(tmp_path: Path) -> DumpFolder:
    return DumpFolder(tmp_path / "dumps")


@pytest.fixture
def settings(folder: DumpFolder) -> Settings:
    return Settings(
        rate_limits="",
        ingest_source=IngestSource.NONE,
        dumps_dir=folder.path,
    )


@pytest.fixture(scope="module")
async def exported(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Dump]]:
    """A folder with the dumps of two days, and one of them is large."""
    path = tmp_path_factory.mktemp("exported")
    rows = [downloads(f"p{number:06}", 1 + number) for number in range(5_000)]
    engine = create_engine(module_database_url)
    await publish(engine, days_ago(1), downloads("flask", {"3.12": 2, "3.9": 1}, mirrors=4))
    await publish(engine, days_ago(0), *rows)
    dumps = await _export(engine, DumpFolder(path))
    await engine.dispose()
    return path, dumps


@pytest.fixture
def dumps(exported: tuple[Path, list[Dump]], folder: DumpFolder) -> list[Dump]:
    path, dumps = exported
    shutil.copytree(path, folder.path)
    return dumps


async def _export(engine: AsyncEngine, folder: DumpFolder) -> list[Dump]:
    days = await published_days(engine)
    with folder.opened():
        written = export(engine, folder, days, DumpFormat.NDJSON)
        done = [one.dump async for one in written]
        return [dump for dump in done if isinstance(dump, Dump)]


def _golden(dump: Dump, day: date, packages: int, downloads: int, with_mirrors: int) -> str:
    return (
        f'{{"day":"{day}","name":"{dump.name}","url":"dumps/{dump.name}","format":"ndjson",'
        f'"bytes":{dump.bytes},"sha256":"{dump.sha256}","source":"given","packages":{packages},'
        f'"downloads":{downloads},"downloads_with_mirrors":{with_mirrors},'
        f'"digest":"{dump.digest}","columns":["day","package","with_mirrors","without_mirrors",'
        '"python_minor","system"],"followed":null,"counted_files":"all"}'
    )


async def test_the_list(client: httpx.AsyncClient, dumps: list[Dump]) -> None:
    response = await client.get("/api/dumps", headers={"Accept-Encoding": "identity"})
    assert response.status_code == 200
    latest, before = dumps
    assert response.text == (
        f'{{"data":[{_golden(latest, days_ago(0), 5000, 12502500, 12502500)},'
        f'{_golden(before, days_ago(1), 1, 3, 7)}],"months":[],"type":"dumps"}}'
    )
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"].startswith("public, max-age=60, ")
    tags = set()
    for encoding in ("identity", "gzip", "zstd"):
        again = await client.get("/api/dumps", headers={"Accept-Encoding": encoding})
        assert again.content == response.content
        assert again.headers["vary"] == "Accept-Encoding"
        tags.add(again.headers["etag"])
        known = {"Accept-Encoding": encoding, "If-None-Match": again.headers["etag"]}
        unchanged = await client.get("/api/dumps", headers=known)
        assert (unchanged.status_code, unchanged.headers["vary"]) == (304, "Accept-Encoding")
    assert len(tags) == 3
    assert len(zstandard.compress(response.content)) == int(again.headers["content-length"])
    Dumps.model_validate(response.json())


async def test_a_list_is_compressed_in_a_thread(
    client: httpx.AsyncClient, dumps: list[Dump], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def note_and_compress(body: bytes, encoding: str) -> bytes:
        threads.append(current_thread())
        return compressed(body, encoding)

    monkeypatch.setattr(prepared, "compressed", note_and_compress)
    for _ in range(2):
        response = await client.get("/api/dumps", headers={"Accept-Encoding": "gzip"})
        assert response.json()["data"]
    (thread,) = threads
    assert thread is not main_thread()


async def test_files_match_the_list(client: httpx.AsyncClient, dumps: list[Dump]) -> None:
    """Each file is fetched by its address in the list, which is relative to the list's."""
    listed = await client.get("/api/dumps")
    for entry, dump in zip(listed.json()["data"], dumps, strict=True):
        response = await client.get(listed.url.join(entry["url"]))
        assert response.status_code == 200
        assert sha256(response.content).hexdigest() == entry["sha256"]
        assert response.headers["content-length"] == str(entry["bytes"])
        assert response.headers["etag"] == f'"{entry["sha256"]}"'
        assert response.headers["content-type"] == "application/octet-stream"
        assert "content-encoding" not in response.headers
        assert response.headers["content-disposition"] == f'attachment; filename="{dump.name}"'
        assert gzip.decompress(response.content).count(b"\n") == entry["packages"]


async def test_files_of_months(
    client: httpx.AsyncClient, engine: AsyncEngine, folder: DumpFolder
) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    days = {day.day: day for day in await published_days(engine)}
    month = await roll_up(PublishContext(engine, POLICY, lambda: NOW), *months_of(days))
    assert month
    with folder.opened():
        (written,) = [one async for one in export(engine, folder, [month], DumpFormat.NDJSON)]
    listed = await client.get("/api/dumps")
    (entry,) = listed.json()["months"]
    response = await client.get(listed.url.join(entry["url"]))
    assert response.status_code == 200
    assert sha256(response.content).hexdigest() == entry["sha256"] == written.dump.sha256


async def test_the_list_is_empty_before_the_first_export(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/dumps")
    assert (response.status_code, response.content) == (200, EMPTY)


async def test_the_list_is_revalidated_by_its_tag(
    client: httpx.AsyncClient, engine: AsyncEngine, folder: DumpFolder, dumps: list[Dump]
) -> None:
    for number, encoding in enumerate(("identity", "zstd", "gzip"), 1):
        first = await client.get("/api/dumps", headers={"Accept-Encoding": encoding})
        tag = first.headers["etag"]
        assert first.headers.get("content-encoding", "identity") == encoding
        same = await client.get(
            "/api/dumps", headers={"Accept-Encoding": encoding, "If-None-Match": f'"x", W/{tag}'}
        )
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == tag
        await publish(engine, days_ago(2), downloads("flask", number))
        await _export(engine, folder)
        other = await client.get(
            "/api/dumps", headers={"Accept-Encoding": encoding, "If-None-Match": tag}
        )
        assert other.status_code == 200
        assert other.headers["etag"] != tag
        assert len(other.json()["data"]) == 3


async def test_a_file_by_its_tag_and_by_range(client: httpx.AsyncClient, dumps: list[Dump]) -> None:
    dump = dumps[0]
    path = f"/api/dumps/{dump.name}"
    whole = (await client.get(path)).content
    tag = f'"{dump.sha256}"'
    same = await client.get(path, headers={"If-None-Match": tag})
    assert (same.status_code, same.content) == (304, b"")
    part = await client.get(path, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{dump.bytes}"
    # Goes on with what was broken off, as long as that is the same file.
    rest = await client.get(path, headers={"Range": "bytes=10-", "If-Range": tag})
    assert (rest.status_code, rest.content) == (206, whole[10:])
    other = await client.get(path, headers={"Range": "bytes=10-", "If-Range": '"x"'})
    assert (other.status_code, other.content) == (200, whole)


async def test_an_invalid_range(client: httpx.AsyncClient, dumps: list[Dump]) -> None:
    for given, status, detail in (
        ("bytes=999999999-", 416, "Range begins after the end of the file."),
        ("bytes=9-1", 400, "Range should be like bytes=0-1023."),
    ):
        response = await client.get(f"/api/dumps/{dumps[0].name}", headers={"Range": given})
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"] == detail
        if status == 416:
            assert response.headers["content-range"] == f"bytes */{dumps[0].bytes}"


async def test_heads(
    client: httpx.AsyncClient, dumps: list[Dump], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HEAD reads no file."""
    for path in ("/api/dumps", f"/api/dumps/{dumps[0].name}"):
        full = await client.get(path)
        with monkeypatch.context() as patch:
            patch.setattr("anyio.open_file", None)
            head = await client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("etag", "content-length", "content-type", "cache-control"):
            assert head.headers[name] == full.headers[name]


async def test_only_listed_files_are_sent(
    client: httpx.AsyncClient, folder: DumpFolder, dumps: list[Dump]
) -> None:
    (folder.path / "stranger.txt").write_text("secret")
    (folder.path.parent / "secret.txt").write_text("secret")
    outside = ("..%2Fsecret.txt", "%2e%2e%2fsecret.txt", "..%5Csecret.txt", "%2Fetc%2Fpasswd")
    unknown = ("downloads-2026-11-20-000000000000.parquet", "%00", "a" * 3000)
    for name in (INDEX_NAME, "stranger.txt", *outside, *unknown):
        response = await client.get(f"/api/dumps/{name}")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert "secret" not in response.json()["detail"]


async def test_the_error_of_an_unknown_dump(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/dumps/nothing", headers={"X-Request-ID": "one"})
    assert response.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is no such dump: /api/dumps lists the available ones.",
        "request_id": "one",
    }


async def test_a_list_that_can_not_be_read(
    client: httpx.AsyncClient, folder: DumpFolder, dumps: list[Dump]
) -> None:
    (folder.path / INDEX_NAME).write_text("no list")
    for path in ("/api/dumps", f"/api/dumps/{dumps[0].name}"):
        response = await client.get(path)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "60"
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"] == "The dumps can't be read at the moment."
        assert str(folder.path) not in response.text


@pytest.mark.parametrize("kind", ["lost", "cut", "grown", "folder", "pipe", "link"])
async def test_only_regular_files_of_the_listed_size_are_sent(
    client: httpx.AsyncClient, folder: DumpFolder, dumps: list[Dump], kind: str
) -> None:
    path = folder.path / dumps[0].name
    content = path.read_bytes()
    path.unlink()
    if kind == "cut":
        path.write_bytes(content[:-1])
    elif kind == "grown":
        path.write_bytes(content + b"x")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (folder.path / "elsewhere").write_bytes(content)
        path.symlink_to("elsewhere")
    for method in ("GET", "HEAD"):
        response = await client.request(method, f"/api/dumps/{dumps[0].name}")
        assert (response.status_code, response.headers["retry-after"]) == (503, "60")


async def _receive() -> Message:
    """Wait for a client that stays connected."""
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("kind", ["cut", "grown", "overwritten", "replaced"])
async def test_a_file_that_changes_while_it_is_sent(tmp_path: Path, kind: str) -> None:
    """Only a file that is replaced is sent as a whole, because the old one stays open."""
    path = tmp_path / "dump"
    content = b"a" * 2**20
    path.write_bytes(content)
    os.utime(path, (0, 0))
    response = DumpResponse(path.open("rb"), "dump", {})
    received = b""

    async def send(message: Message) -> None:
        nonlocal received
        body = message.get("body", b"")
        if body and not received:
            if kind == "replaced":
                path.unlink()
                path.write_bytes(b"b")
            else:
                size = {"cut": 10, "grown": 2 * 2**20, "overwritten": 2**20}[kind]
                path.write_bytes(b"b" * size)
        received += body

    await response({"type": "http", "method": "GET", "headers": []}, _receive, send)
    assert content.startswith(received)
    assert (received == content) == (kind == "replaced")


async def test_a_pipe_instead_of_a_list_does_not_block(
    client: httpx.AsyncClient, folder: DumpFolder, dumps: list[Dump]
) -> None:
    (folder.path / INDEX_NAME).unlink()
    os.mkfifo(folder.path / INDEX_NAME)
    assert (await client.get("/api/dumps")).status_code == 503


async def test_files_elsewhere(
    settings: Settings, database_url: str, folder: DumpFolder, dumps: list[Dump]
) -> None:
    base = "https://bucket.example/dumps/"
    settings = settings.model_copy(update={"dumps_url": base})
    transport = httpx.ASGITransport(create_app(settings, database_url))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        listed = (await client.get("/api/dumps")).json()
    assert [one["url"] for one in listed["data"]] == [base + dump.name for dump in dumps]


@pytest.mark.parametrize(
    "settings", [Settings(rate_limits="2/hour", ingest_source=IngestSource.NONE)]
)
async def test_dumps_count_against_the_rate_limit(client: httpx.AsyncClient) -> None:
    paths = ("/api/dumps", "/api/dumps/x", "/api/dumps")
    assert [(await client.get(path)).status_code for path in paths] == [200, 404, 429]
