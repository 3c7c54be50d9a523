"""Files of days, and a server of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.downloads import PackageDownloads, PublishedDay
from app.dumps.export import export, published_days
from app.dumps.listing import DumpFormat
from app.dumps.stores.folder import DumpFolder
from app.ingest import pipeline
from app.ingest.policy import PublishPolicy
from app.ingest.publish import PublishContext
from app.ingest.sources.file import FileSource, create_source
from app.ingest.sources.source import Source
from app.settings import Settings
from tests.clock import NOW
from tests.days import (
    FORCED,
    days_ago,
    downloads,
    rows_of,
)

ROWS = [
    downloads("flask", {"3.12": 2, "3.9": 1}, mirrors=4),
    downloads("mirrored-only", 0, mirrors=1),
    downloads("requests", {"null": 7}),
]
DAY = days_ago(0)


def source_of(location: Path | str, packages: str | None = None) -> FileSource:
    settings = {"ingest_files": str(location), "ingest_packages": packages}
    return create_source(Settings.model_validate(settings))


async def read(source: FileSource, day: date = DAY) -> list[PackageDownloads]:
    """Read a day as the pipeline does."""
    await source.origin(day)
    await source.begin(day)
    return await rows_of(await source.read(day))


async def ingest(
    engine: AsyncEngine, source: Source, day: date = DAY, policy: PublishPolicy = FORCED
) -> PublishedDay:
    published = await pipeline.read_and_publish(
        PublishContext(engine, policy, lambda: NOW), source, day
    )
    assert isinstance(published, PublishedDay)
    return published


async def export_all(
    engine: AsyncEngine, folder: DumpFolder, dump_format: DumpFormat = DumpFormat.PARQUET
) -> None:
    days = await published_days(engine)
    with folder.opened():
        exported = export(engine, folder, days, dump_format)
        assert len([one async for one in exported]) == len(days)


def line_of(package: str = "a", **values: object) -> bytes:
    row: dict[str, object] = {
        "package": package,
        "with_mirrors": 1,
        "without_mirrors": 1,
        "python_minor": {"3.9": 1},
        "system": {"linux": 1},
    }
    return orjson.dumps(row | values) + b"\n"


Answers = Mapping[str, bytes | Callable[[], bytes]]


@asynccontextmanager
async def server(answers: Answers, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Answer each path with these bytes, and close the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        path = request.split()[1].decode()
        found = answers.get(path, response_of(404, b"no"))
        writer.write(found if isinstance(found, bytes) else found())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    running = await asyncio.start_server(answer, host, port)
    async with running:
        yield f"http://{host}:{running.sockets[0].getsockname()[1]}"


def response_of(status: int, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*head, *headers, "", ""]).encode() + body


OWN = f"/{DAY}.ndjson"
