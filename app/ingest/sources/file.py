"""The source that reads one file per day: dumps of another instance, or an operator's own files."""

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
"""Maximum size of a list of dumps, which has some 500 bytes per day."""

MAX_FILE_BYTES = 2 * 2**30
"""Maximum size of a file. A day of PyPI takes some 10 MB."""

LISTING_LASTS_SECONDS = 60.0
"""How long a list is reused, so that a backfill does not fetch it for each day."""

TIMEOUT_SECONDS = 30.0
"""Timeout for connecting, and for each part of a response."""

MAX_REDIRECTS = 5

CHUNK_BYTES = 2**20

LONGEST_PAUSE_SECONDS = 60.0
"""Maximum time that a server's `Retry-After` delays the next attempt."""

PASSING_STATUSES = {408, 425, 429}
"""Statuses below 500 that are temporary."""


class _NotThereError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Fetched:
    file: BinaryIO
    """The file, positioned at its beginning."""

    bytes: int
    sha256: str


class Files(Protocol):
    async def fetch(self, address: str, max_bytes: int) -> Fetched:
        """Fetch a whole file. Raises `SourceError`, and `_NotThereError` if it does not exist."""


class FileSource:
    """Reads files at a location: the address of a list of dumps, or an address that contains
    `{day}`.
    """

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
                # Sample data stays sample data when another instance passes it on.
                return SAMPLE
        return self.name

    def counted_files(self, day: date) -> CountedFiles:
        dump = self._dump(day)
        return dump.counted_files if dump else CountedFiles.ALL

    async def partition(self, _: date) -> None:
        """Return nothing: reading a file again bills nothing."""

    async def begin(self, _: date) -> None:
        """Return nothing: a file needs no query."""

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
                message = f"{_shown(self._location)} lists an invalid address for {dump.day}"
                raise SourceDayError(f"{message}: {error}") from error
        # Only read files beside the list, whatever path the list contains.
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
                raise SourceError(f"{shown} is not a list of dumps: {error}") from error

    async def _batches(
        self, day: date, columns: list[str]
    ) -> AsyncGenerator[Sequence[PackageDownloads], None]:
        """Yield the day's packages, and fill in `columns` before the first batch.

        Errors are raised here rather than in `read`, so that a failed day counts as queried.
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
            # The list may state any size.
            max_bytes = min(dump.bytes, MAX_FILE_BYTES) if dump else MAX_FILE_BYTES
            fetched = await self._files.fetch(address, max_bytes)
        except _NotThereError:
            if dump:
                self._forget_list()
                raise SourceUnavailableError(f"{_shown(address)} is listed but missing") from None
            raise SourceDayError(f"there is no file of {day} yet at {_shown(address)}") from None
        if dump and (fetched.bytes, fetched.sha256) != (dump.bytes, dump.sha256):
            fetched.file.close()
            self._forget_list()
            raise SourceUnavailableError(
                f"{_shown(address)} differs from the list: {fetched.bytes:,} bytes with the "
                f"checksum {fetched.sha256[:12]}, instead of {dump.bytes:,} with {dump.sha256[:12]}"
            )
        return fetched.file

    def _forget_list(self) -> None:
        """Fetch the list again for the next day: it may be outdated."""
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
                f"but the list has {dump.packages:,} and {dump.downloads:,}"
            )


def _named(rows: Rows, dump: Dump | None) -> Rows:
    """Return the rows with normalised names.

    Dumps of an instance must already have normalised names: no row may be left out, because the
    published figures have to match the list.
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
    """Downloads files over HTTPS to temporary files. Plain HTTP may be allowed for this machine."""

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
                # Sizes and checksums are those of the uncompressed file.
                "Accept-Encoding": "identity",
                "User-Agent": f"pypi-stats-api/{version('pypi-stats-api')}",
            },
            event_hooks={"request": [self._check_secure]},
        )

    async def _check_secure(self, request: httpx.Request) -> None:
        """Check the address of each request. A redirect must not lead from another machine to this
        one.
        """
        is_allowed = request.url.scheme == "https" or self._allows_http
        if not (is_allowed and is_secure(str(request.url))):
            raise SourceError(f"{_shown(str(request.url))}: files are only fetched from https://")

    async def _save(self, response: httpx.Response, max_bytes: int, address: str) -> Fetched:
        digest = hashlib.sha256()
        size = 0
        # The caller closes the file.
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
        raise SourceError(f"{_shown(address)} responds with an encoding that was not requested")


@contextmanager
def _web_errors(address: str) -> Iterator[None]:
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise SourceError(f"{_shown(address)}: {error}") from error
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise SourceUnavailableError(f"{_shown(address)}: {reason}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError(f"{_shown(address)} can't be stored: {reason}") from error


def create_source(settings: Settings) -> FileSource:
    """Return the source that the settings describe. Raises `SettingsError` if `INGEST_FILES` is
    missing or names a missing folder.
    """
    if settings.ingest_files is None:
        raise SettingsError(
            "INGEST_FILES: should be set to the location of the files for INGEST_SOURCE=file: "
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
    # Folders whose names contain the day may be created later.
    folder = Path(f"{before}-").parent if day else Path(location)
    if not folder.is_dir():
        raise SettingsError(f"INGEST_FILES: there is no folder {folder}")
    if not day:
        location = str(folder / INDEX_NAME)
    return FileSource(LocalFiles(), location, breakdowns)


def _path(address: str) -> str:
    return urlsplit(address).path if "://" in address else address


def _shown(address: str) -> str:
    """Return an address for messages, without the parts that may be secret."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


async def _in_thread(function: Callable[[], Result]) -> Result:
    """Run a function that reads from the disk in a thread. If the task is cancelled, wait until the
    function returns, so that the caller can close the files that it uses.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise
