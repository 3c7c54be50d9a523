"""Files of a day's downloads: the dumps of another instance, or people's own."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Protocol, TypeVar, cast
from urllib.parse import urljoin, urlsplit

import httpx

from app.domain.breakdowns import OPTIONAL_BREAKDOWNS, Breakdown, columns_with
from app.domain.downloads import PackageDownloads
from app.domain.events import CountedFiles
from app.domain.package_name import is_valid, normalise
from app.dumps import formats
from app.dumps.formats.rows import Rows
from app.dumps.listing import INDEX_NAME, SAMPLE, Dump, DumpFormat, Dumps, parse
from app.errors import (
    MalformedDumpError,
    SettingsError,
    SourceDayError,
    SourceError,
    SourceUnavailableError,
)
from app.ingest.sources.source import Reading
from app.setting_types import DAY_FIELD, is_secure
from app.settings import IngestSource, Settings

Result = TypeVar("Result")

MAX_LISTING_BYTES = 16 * 2**20
"""A day takes some 500."""

MAX_FILE_BYTES = 2 * 2**30
"""A day of PyPI takes some 10 MB."""

LISTING_LASTS_SECONDS = 60.0
"""A backfill asks for a day after the other, and a server counts requests."""

TIMEOUT_SECONDS = 30.0
"""To connect, and for each piece of an answer."""

MAX_REDIRECTS = 5

CHUNK_BYTES = 2**20

LONGEST_PAUSE_SECONDS = 60.0
"""That a server may ask for, before it is asked again."""

PASSING_STATUSES = {408, 425, 429}
"""Besides those of the server's own faults."""


class _NotThereError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Fetched:
    file: BinaryIO
    """At its beginning."""

    bytes: int
    sha256: str


class Files(Protocol):
    async def fetch(self, address: str, max_bytes: int) -> Fetched:
        """All of a file. Raises `SourceError`, and `_NotThereError` where there is none."""


class FileSource:
    """`location` is a list of dumps, or an address in which `{day}` stands for the day."""

    name = "file"

    def __init__(
        self,
        files: Files,
        location: str,
        breakdowns: Iterable[Breakdown] = OPTIONAL_BREAKDOWNS,
    ) -> None:
        self._files = files
        self._location = location
        self._columns = columns_with(breakdowns)
        self._dumps: Dumps | None = None
        self._listed_at = float("-inf")

    async def origin(self, day: date) -> str:
        if self._is_listed:
            if monotonic() - self._listed_at > LISTING_LASTS_SECONDS:
                self._dumps = await self._list()
                self._listed_at = monotonic()
            dump = self._dump(day)
            if dump and dump.is_sample:
                # Made up it stays, wherever it is handed on to.
                return SAMPLE
        return self.name

    def counted_files(self, day: date) -> CountedFiles:
        dump = self._dump(day)
        return dump.counted_files if dump else CountedFiles.ALL

    async def partition(self, _: date) -> None:
        """Return nothing: reading a file again bills nothing."""

    async def begin(self, _: date) -> None:
        """It costs nothing."""

    async def read(self, day: date, _: str | None = None) -> Reading:
        columns: list[str] = []
        return Reading(self._batches(day, columns), columns=columns)

    @property
    def _is_listed(self) -> bool:
        return DAY_FIELD not in self._location

    def _address_of(self, dump: Dump) -> str:
        if "://" in self._location:
            try:
                return urljoin(self._location, dump.url)
            except ValueError as error:
                told = f"{_shown(self._location)} lists an address for {dump.day} that is none"
                raise SourceDayError(f"{told}: {error}") from error
        # Beside the list, and nowhere else on this machine.
        return str(Path(self._location).parent / dump.name)

    def _dump(self, day: date) -> Dump | None:
        return self._dumps.of(day) if self._dumps else None

    async def _list(self) -> Dumps:
        shown = _shown(self._location)
        try:
            fetched = await self._files.fetch(self._location, MAX_LISTING_BYTES)
        except _NotThereError:
            raise SourceError(f"there is no list of dumps at {shown}") from None
        with fetched.file as file:
            try:
                return parse(file.read())
            except MalformedDumpError as error:
                raise SourceError(f"{shown} is no list of dumps: {error}") from error

    async def _batches(
        self, day: date, columns: list[str]
    ) -> AsyncGenerator[Sequence[PackageDownloads], None]:
        """What is wrong is told here, where a day that failed is known to have been asked for. The
        columns are filled in before the first batch.
        """
        dump = self._dump(day)
        if dump:
            address, dump_format = self._address_of(dump), dump.format
        elif self._is_listed:
            raise SourceDayError(f"{_shown(self._location)} lists no file of {day} yet")
        else:
            address = self._location.replace(DAY_FIELD, str(day))
            dump_format = DumpFormat.of(_path(address))
        with await self._fetch(day, address, dump) as file:
            async for rows in self._rows(file, address, dump_format, dump):
                columns[:] = [one for one in self._columns if one in rows[0].breakdowns]
                yield rows

    async def _fetch(self, day: date, address: str, dump: Dump | None) -> BinaryIO:
        try:
            # Whoever writes the list says how large its files are, and may say anything.
            max_bytes = min(dump.bytes, MAX_FILE_BYTES) if dump else MAX_FILE_BYTES
            fetched = await self._files.fetch(address, max_bytes)
        except _NotThereError:
            if dump:
                self._forget_list()
                raise SourceUnavailableError(f"{_shown(address)} is listed and not there") from None
            raise SourceDayError(f"there is no file of {day} yet at {_shown(address)}") from None
        if dump and (fetched.bytes, fetched.sha256) != (dump.bytes, dump.sha256):
            fetched.file.close()
            self._forget_list()
            raise SourceUnavailableError(
                f"{_shown(address)} is not what is listed: {fetched.bytes:,} bytes with the "
                f"checksum {fetched.sha256[:12]}, instead of {dump.bytes:,} with {dump.sha256[:12]}"
            )
        return fetched.file

    def _forget_list(self) -> None:
        """It may be that of a moment ago."""
        self._listed_at = float("-inf")

    async def _rows(
        self, file: BinaryIO, address: str, dump_format: DumpFormat, dump: Dump | None
    ) -> AsyncIterator[Sequence[PackageDownloads]]:
        batches = formats.read(file, dump_format)
        packages = downloads = downloads_with_mirrors = 0
        try:
            while rows := await _in_thread(lambda: _named(next(batches, ()), dump)):
                packages += len(rows)
                downloads += sum(row.without_mirrors for row in rows)
                downloads_with_mirrors += sum(row.with_mirrors for row in rows)
                yield rows
        except MalformedDumpError as error:
            raise SourceDayError(f"{_shown(address)}: {error}") from error
        if dump and (packages, downloads, downloads_with_mirrors) != (
            *(dump.packages, dump.downloads, dump.downloads_with_mirrors),
        ):
            raise SourceDayError(
                f"{_shown(address)} has {packages:,} packages and {downloads:,} downloads, "
                f"and {dump.packages:,} and {dump.downloads:,} are listed"
            )


def _named(rows: Rows, dump: Dump | None) -> Rows:
    """Rows with normalised names. In what an instance wrote they are so, and none is left out: what
    is published then adds up to what is listed.
    """
    if all(is_valid(row.package) for row in rows):
        return rows
    if dump:
        wrong = next(row.package for row in rows if not is_valid(row.package))
        raise MalformedDumpError(f"{wrong[:100]!r} is not the normalised name of a package")
    return [row._replace(package=normalise(row.package)) for row in rows]


class LocalFiles:
    async def fetch(self, address: str, max_bytes: int) -> Fetched:
        with _local_errors(address), _closed_on_error(_opened(address)) as file:
            return await _in_thread(lambda: _hashed(file, max_bytes, address))


def _opened(address: str) -> BinaryIO:
    return Path(address).open("rb")


def _hashed(file: BinaryIO, max_bytes: int, address: str) -> Fetched:
    digest = hashlib.sha256()
    size = 0
    while chunk := file.read(CHUNK_BYTES):
        size += len(chunk)
        _check_size(size, max_bytes, address)
        digest.update(chunk)
    file.seek(0)
    return Fetched(file, size, digest.hexdigest())


@contextmanager
def _closed_on_error(file: BinaryIO) -> Iterator[BinaryIO]:
    try:
        yield file
    except BaseException:
        file.close()
        raise


@contextmanager
def _local_errors(address: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise _NotThereError from None
    except OSError as error:
        raise SourceError(f"{address} can't be read: {error.strerror or error}") from error


class WebFiles:
    """Over HTTPS, into a file that has no name. Plain HTTP may be allowed within this machine."""

    def __init__(self, *, allows_http: bool) -> None:
        self._allows_http = allows_http
        self._tls = httpx.create_ssl_context()

    async def fetch(self, address: str, max_bytes: int) -> Fetched:
        with _web_errors(address):
            async with (
                self._client() as client,
                client.stream("GET", address) as response,
            ):
                await _check_status(response, address)
                return await self._save(response, max_bytes, address)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=self._tls,
            timeout=TIMEOUT_SECONDS,
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            headers={
                # What is counted and hashed is what is sent.
                "Accept-Encoding": "identity",
                "User-Agent": f"pypi-stats-api/{version('pypi-stats-api')}",
            },
            event_hooks={"request": [self._check_secure]},
        )

    async def _check_secure(self, request: httpx.Request) -> None:
        """Of every address that is asked, those that a server redirects to included: a server far
        away has no say in what is asked of this machine.
        """
        is_allowed = request.url.scheme == "https" or self._allows_http
        if not (is_allowed and is_secure(str(request.url))):
            raise SourceError(f"{_shown(str(request.url))}: only https:// is asked for files")

    async def _save(self, response: httpx.Response, max_bytes: int, address: str) -> Fetched:
        digest = hashlib.sha256()
        size = 0
        # Whoever has fetched it closes it.
        new = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115
        with _closed_on_error(new) as file:
            async for chunk in response.aiter_raw(CHUNK_BYTES):
                size += len(chunk)
                _check_size(size, max_bytes, address)
                digest.update(chunk)
                file.write(chunk)
            file.seek(0)
            return Fetched(file, size, digest.hexdigest())


def _check_size(size: int, max_bytes: int, address: str) -> None:
    if size > max_bytes:
        raise SourceDayError(f"{_shown(address)} has more than {max_bytes:,} bytes")


async def _check_status(response: httpx.Response, address: str) -> None:
    status = response.status_code
    if status in (404, 410):
        raise _NotThereError
    if status in PASSING_STATUSES or status >= 500:
        pause = response.headers.get("Retry-After", "")
        if pause.isascii() and pause.isdecimal():
            await asyncio.sleep(min(float(pause), LONGEST_PAUSE_SECONDS))
        raise SourceUnavailableError(f"{_shown(address)} answers with status {status}")
    if status != 200:
        raise SourceError(f"{_shown(address)} answers with status {status}")
    if "Content-Encoding" in response.headers:
        raise SourceError(f"{_shown(address)} answers in an encoding that was not asked for")


@contextmanager
def _web_errors(address: str) -> Iterator[None]:
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise SourceError(f"{_shown(address)}: {error}") from error
    except httpx.TransportError as error:
        told = str(error) or type(error).__name__
        raise SourceUnavailableError(f"{_shown(address)}: {told}") from error
    except OSError as error:
        raise SourceError(f"{_shown(address)} can't be kept: {error.strerror or error}") from error


def create_source(settings: Settings) -> FileSource:
    """Raises `SettingsError` when it is not set where the files are."""
    if settings.ingest_files is None:
        raise SettingsError(
            "INGEST_FILES: should be set, to where the files of INGEST_SOURCE=file are: "
            "a folder of dumps, https://host/api/dumps, or a path with {day} in it"
        )
    breakdowns = settings.breakdowns_of(IngestSource.FILE)
    location = settings.ingest_files.get_secret_value()
    if "://" in location:
        if location.endswith("/"):
            location += INDEX_NAME
        files = WebFiles(allows_http=urlsplit(location).scheme == "http")
        return FileSource(files, location, breakdowns)
    before, day, _ = location.partition(DAY_FIELD)
    # What is named by the day may come later.
    folder = Path(f"{before}-").parent if day else Path(location)
    if not folder.is_dir():
        raise SettingsError(f"INGEST_FILES: there is no folder {folder}")
    if not day:
        location = str(folder / INDEX_NAME)
    return FileSource(LocalFiles(), location, breakdowns)


def _path(address: str) -> str:
    return urlsplit(address).path if "://" in address else address


def _shown(address: str) -> str:
    """Without what may be secret in it."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


async def _in_thread(function: Callable[[], Result]) -> Result:
    """Run what waits for the disk beside the event loop. What it uses is free when this ends, also
    when it is cancelled.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise
