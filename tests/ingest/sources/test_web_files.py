"""Files of other servers as a source."""

import asyncio
import gzip
import hashlib
import re
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.runs_repository import latest_runs
from app.domain.downloads import PackageDownloads, PublishedDay
from app.dumps.listing import INDEX_NAME
from app.dumps.stores.folder import DumpFolder
from app.errors import (
    SourceDayError,
    SourceError,
    SourceUnavailableError,
)
from app.ingest.publish import PublishContext
from app.ingest.runs import DayIngester, ingest_lock
from app.ingest.scheduler import run_ingest_job
from app.ingest.sources import fetched_files, file
from app.ingest.sources.fetched_files import WebFiles
from app.ingest.sources.file import FileSource
from app.settings import Settings
from tests.clock import NOW
from tests.contents import everything
from tests.days import (
    FORCED,
    days_ago,
    publish,
)
from tests.ingest.sources.file_server import (
    DAY,
    OWN,
    ROWS,
    Answers,
    export_all,
    line_of,
    read,
    response_of,
    server,
    source_of,
)


async def _read_from(answers: Answers, path: str = "/{day}.ndjson") -> list[PackageDownloads]:
    async with server(answers) as address:
        return await read(source_of(f"{address}{path}"))


async def test_a_file_over_http() -> None:
    rows = await _read_from({OWN: response_of(200, line_of("flask") + line_of("numpy"))})
    assert [row.package for row in rows] == ["flask", "numpy"]


async def test_a_public_server_can_not_redirect_to_a_private_address(tmp_path: Path) -> None:
    """A server on the Internet can't make the service connect to a private address."""
    async with server({OWN: response_of(200, line_of())}) as address:
        for files, error in (
            (WebFiles(allows_http=False), "files are only fetched from https://"),
            (WebFiles(allows_http=True), None),
        ):
            source = FileSource(files, f"{address}/{{day}}.ndjson")
            if error:
                with pytest.raises(SourceError, match=error):
                    await read(source)
            else:
                assert len(await read(source)) == 1
    remote = source_of("https://stats.example/api/dumps")
    assert isinstance(remote._files, WebFiles)
    assert not remote._files._allows_http


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://[", "lists an invalid address for"),
        ("//[::1", "lists an invalid address for"),
        ("https://xn--/x", "https://xn--/x: "),
        (f"https://{'a' * 64}.example/x", "example/x: "),
        ("https://a..example/x", "a..example/x: "),
        ("ftp://example/x", "only fetched from https://"),
        ("https://example/\x1b[31mx", "https://example/\\x1b[31mx: "),
        (f"https://{'a' * 60_000}.invalid/", "aaa: "),
        (f"https://a.invalid/{'a' * 60_000}", "aaa: there is no host a.invalid"),
        ("https://no-such-host.invalid/x", "there is no host no-such-host.invalid"),
    ],
)
async def test_an_invalid_address_in_a_list_fails_one_day(
    engine: AsyncEngine, folder: DumpFolder, url: str, message: str
) -> None:
    for ago in (0, 1):
        await publish(engine, days_ago(ago), *ROWS)
    await export_all(engine, folder)
    listed = orjson.loads((folder.path / INDEX_NAME).read_bytes())
    bad, good = listed["data"]
    bad["url"] = url
    answers = {
        "/_index.json": response_of(200, orjson.dumps(listed)),
        f"/{good['name']}": response_of(200, (folder.path / good["name"]).read_bytes()),
    }
    async with server(answers) as address:
        source = source_of(f"{address}/")
        with pytest.raises(SourceDayError, match=re.escape(message)) as caught:
            await read(source)
        assert len(str(caught.value)) < 500
        assert len(await read(source, days_ago(1))) == 3


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert fetched_files.is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1"),
        *("224.0.0.1", "0.0.0.0", "::1", "::", "fe80::1", "fe80::1%1", "fd00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "fec0::1"),
        *("::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "5f00::1", "4000::1", "2001:0:7f00:1::"),
    ],
)
def test_private_addresses(address: str) -> None:
    assert not fetched_files.is_public(address)


@pytest.fixture
def _first_address_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 127.0.0.1 be on the Internet, and all other addresses private."""
    monkeypatch.setattr(fetched_files, "is_public", lambda address: address == "127.0.0.1")


@pytest.mark.usefixtures("_first_address_is_public")
async def test_a_server_on_the_internet_can_not_name_a_private_address() -> None:
    async with server({OWN: response_of(200, line_of())}, "127.0.0.2") as private:
        # The operator may name a private address.
        assert len(await read(source_of(f"{private}/{{day}}.ndjson"))) == 1
        answers = {OWN: response_of(302, b"", f"Location: {private}{OWN}")}
        async with server(answers) as public:
            with pytest.raises(SourceDayError, match="is in a private network"):
                await read(source_of(f"{public}/{{day}}.ndjson"))


@pytest.mark.usefixtures("_first_address_is_public")
@pytest.mark.parametrize("is_rebound", [False, True])
async def test_a_list_on_the_internet_can_not_name_a_private_address(
    engine: AsyncEngine, folder: DumpFolder, monkeypatch: pytest.MonkeyPatch, is_rebound: bool
) -> None:
    """A host name that resolves to a private address later makes no difference."""
    await publish(engine, DAY, *ROWS)
    await export_all(engine, folder)
    listed = orjson.loads((folder.path / INDEX_NAME).read_bytes())
    (dump,) = listed["data"]
    content = response_of(200, (folder.path / dump["name"]).read_bytes())
    addresses = ["127.0.0.1"]
    resolve = socket.getaddrinfo

    def rebind(host: str, *arguments: Any, **named: Any) -> Any:
        return resolve(addresses[0] if host == "localhost" else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    answers: dict[str, bytes] = {}
    async with server(answers, "127.0.0.1") as public:
        # Hardly any program uses this address, so that the port is free there as well.
        port = int(public.rpartition(":")[2])
        async with server({f"/{dump['name']}": content}, "127.0.0.2", port) as private:
            if not is_rebound:
                dump["url"] = f"{private}/{dump['name']}"
            answers["/_index.json"] = response_of(200, orjson.dumps(listed))
            source = source_of(f"{public.replace('127.0.0.1', 'localhost')}/")
            await source.origin(DAY)
            if is_rebound:
                addresses[0] = "127.0.0.2"
            with pytest.raises(SourceDayError, match="is in a private network"):
                await read(source)


async def test_a_redirect_to_a_file() -> None:
    answers = {
        OWN: response_of(302, b"", "Location: /there"),
        "/there": response_of(200, line_of()),
    }
    assert len(await _read_from(answers)) == 1


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (response_of(404), SourceDayError, f"there is no file of {DAY} yet at http://127"),
        (response_of(410), SourceDayError, f"there is no file of {DAY} yet"),
        (response_of(403), SourceError, "answers with status 403"),
        (response_of(204), SourceError, "answers with status 204"),
        (response_of(500), SourceUnavailableError, "answers with status 500"),
        (response_of(503, b"", "Retry-After: 0"), SourceUnavailableError, "status 503"),
        (response_of(429, b"", "Retry-After: soon"), SourceUnavailableError, "status 429"),
        (response_of(302, b"", f"Location: {OWN}"), SourceError, "redirects"),
        (
            response_of(302, b"", "Location: http://example.com/"),
            SourceError,
            "only fetched from https://",
        ),
        (
            response_of(302, b"", "Location: file:///etc/passwd"),
            SourceError,
            "only fetched from https://",
        ),
        (response_of(200, line_of(), length=999), SourceUnavailableError, "peer closed connection"),
        (b"", SourceUnavailableError, "disconnected"),
        (b"no HTTP\r\n\r\n", SourceUnavailableError, "illegal"),
        (
            response_of(200, gzip.compress(line_of()), "Content-Encoding: gzip"),
            SourceError,
            "an encoding that was not requested",
        ),
        (response_of(200, b"<html>\n"), SourceDayError, "line 1: not valid JSON"),
    ],
    ids=lambda value: value[9:12].decode() if isinstance(value, bytes) else "",
)
async def test_errors_of_a_server(answer: bytes, error: type[SourceError], told: str) -> None:
    with pytest.raises(error, match=told) as caught:
        await _read_from({OWN: answer})
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


async def test_a_server_that_can_not_be_reached() -> None:
    async with server({}) as address:
        pass
    with pytest.raises(SourceUnavailableError, match="connection"):
        await read(source_of(f"{address}/{{day}}.csv"))


async def test_a_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched_files, "TIMEOUT_SECONDS", 1.0)
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


async def test_a_file_beyond_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "MAX_FILE_BYTES", 100)
    with pytest.raises(SourceDayError, match="has more than 100 bytes"):
        await _read_from({OWN: response_of(200, line_of() * 2)})


async def test_secrets_in_an_address_are_not_logged() -> None:
    async with server({}) as address:
        host = address.removeprefix("http://")
        source = source_of(f"http://user:secret@{host}/{{day}}.csv?token=secret")
        with pytest.raises(SourceDayError, match="yet at") as caught:
            await read(source)
    assert "secret" not in str(caught.value)
    assert f"http://{host}/{DAY}.csv" in str(caught.value)


async def test_temporary_errors_of_a_server_are_retried(
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
        response_of(200, content),
        response_of(429, b"", "Retry-After: 0"),
        response_of(200, content[:50], length=len(content)),
        response_of(200, content),
    ]
    answers: Answers = {
        "/dumps/_index.json": lambda: response_of(
            200, lists.pop(0) if len(lists) > 1 else lists[0]
        ),
        f"/dumps/{dump.name}": lambda: files.pop(0),
    }
    async with server(answers) as address, ingest_lock(engine) as lock:
        source = source_of(f"{address}/dumps/")
        ingester = DayIngester(PublishContext(engine, FORCED, lambda: NOW, lock), source)
        published = await ingester.ingest_day(DAY)
    assert isinstance(published, PublishedDay)
    assert published.digest == dump.digest
    assert files == []
    assert (await everything(engine))["rows"] == before["rows"]


async def test_a_list_is_reused_for_a_minute(
    engine: AsyncEngine, folder: DumpFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ago in range(3):
        await publish(engine, days_ago(ago), *ROWS)
    await export_all(engine, folder)
    asked = 0

    def listed() -> bytes:
        nonlocal asked
        asked += 1
        return response_of(200, (folder.path / INDEX_NAME).read_bytes())

    answers: dict[str, bytes | Callable[[], bytes]] = {"/_index.json": listed}
    for dump in folder.dumps().data:
        answers[f"/{dump.name}"] = response_of(200, (folder.path / dump.name).read_bytes())
    async with server(answers) as address:
        source = source_of(f"{address}/_index.json")
        for ago in range(3):
            assert len(await read(source, days_ago(ago))) == 3
        assert asked == 1
        monkeypatch.setattr(file, "LISTING_REUSE_SECONDS", -1)
        await read(source)
        assert asked == 2


async def test_the_job_retries_an_unreachable_server(
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
    assert f"{address}/dumps/_index.json: " in failed.error
    assert again
    assert timedelta(minutes=29) < again - now < timedelta(minutes=32)


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_a_proxy_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    asked = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}127.0.0.1:{port}")
        with pytest.raises(SourceUnavailableError, match="502"):
            await read(source_of("https://stats.invalid/{day}.ndjson"))
    assert asked == [b"CONNECT stats.invalid:443 HTTP/1.1\r\n"]


@pytest.mark.parametrize(
    "proxy", ["socks5://user:secret@127.0.0.1:9", "secret://x", "http://user:secret/x@127.0.0.1:9"]
)
async def test_a_proxy_that_is_not_supported(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(SourceError, match="HTTPS_PROXY") as raised:
        await read(source_of("https://stats.invalid/{day}.ndjson"))
    assert "secret" not in str(raised.value)
