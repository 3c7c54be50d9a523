"""The source that reads files: another instance's dumps, or files of the operator."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import date
from pathlib import Path
from time import monotonic
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

from app.domain.breakdowns import OPTIONAL_BREAKDOWNS, Breakdown, columns_with
from app.domain.downloads import PackageDownloads
from app.domain.events import CountedFiles
from app.domain.months import Month, Period
from app.domain.package_name import is_valid, normalise
from app.dumps import formats
from app.dumps.formats.rows import Rows
from app.dumps.listing import (
    INDEX_NAME,
    MAX_LISTING_BYTES,
    SAMPLE,
    Dump,
    DumpFile,
    DumpFormat,
    Dumps,
    MonthDump,
    parse,
)
from app.errors import (
    MalformedDumpError,
    SettingsError,
    SourceDayError,
    SourceDayUnavailableError,
    SourceError,
    SourceUnavailableError,
)
from app.ingest.sources.fetched_files import (
    Files,
    LocalFiles,
    MissingFileError,
    WebFiles,
    in_thread,
    shown,
)
from app.ingest.sources.source import Coverage, DayRows, Source
from app.setting_types import DAY_FIELD
from app.settings import IngestSource, Settings

MAX_FILE_BYTES = 2 * 2**30
"""Maximum size of a file. A day of PyPI takes some 10 MB."""

LISTING_REUSE_SECONDS = 60.0
"""How long a list is reused, so that a backfill does not fetch it for each day."""


class FileSource(Source):
    """Reads the files of a location, which is the address of a list of dumps, or an address that
    contains `{day}`.
    """

    name = "file"

    def __init__(
        self,
        files: Files,
        location: str,
        breakdowns: Iterable[Breakdown] = OPTIONAL_BREAKDOWNS,
        packages: Iterable[str] | None = None,
    ) -> None:
        self._files = files
        self._location = location
        self._columns = columns_with(breakdowns)
        self._packages = None if packages is None else frozenset(packages)
        self._dumps: Dumps | None = None
        self._listed_at = float("-inf")
        self._is_list_public = False

    async def origin(self, period: Period) -> str:
        if self._is_listed:
            if monotonic() - self._listed_at > LISTING_REUSE_SECONDS:
                self._dumps = await self._list()
                self._listed_at = monotonic()
            dump = self._dump(period)
            if dump and dump.is_sample:
                # Sample data of another instance is still sample data.
                return SAMPLE
        return self.name

    def counted_files(self, day: date) -> CountedFiles:
        dump = self._dump(day)
        return (dump and dump.counted_files) or CountedFiles.ALL

    def coverage(self, month: Month) -> Coverage:
        dump = self._dump(month)
        if isinstance(dump, MonthDump):
            return Coverage(dump.counted_files, dump.missing_days)
        return Coverage(CountedFiles.ALL)

    async def read(self, period: Period, _: str | None = None) -> DayRows:
        columns: list[str] = []
        return DayRows(self._batches(period, columns), columns=columns)

    @property
    def _is_listed(self) -> bool:
        return DAY_FIELD not in self._location

    def _address_of(self, dump: DumpFile) -> str:
        if "://" in self._location:
            try:
                return urljoin(self._location, dump.url)
            except ValueError as error:
                message = f"{shown(self._location)} lists an invalid address for {dump.period}"
                raise SourceDayError(f"{message}: {error}") from error
        # Only read files in the folder of the list, whatever path the list contains.
        return str(Path(self._location).parent / dump.name)

    def _dump(self, period: Period) -> Dump | MonthDump | None:
        return self._dumps.of(period) if self._dumps else None

    async def _list(self) -> Dumps:
        place = shown(self._location)
        try:
            fetched = await self._files.fetch(self._location, MAX_LISTING_BYTES, only_public=False)
        except MissingFileError:
            raise SourceError(f"there is no list of dumps at {place}") from None
        with fetched.file as file:
            self._is_list_public = fetched.is_public
            try:
                return parse(file.read())
            except MalformedDumpError as error:
                raise SourceError(f"{place} is not a list of dumps: {error}") from error

    async def _batches(
        self, period: Period, columns: list[str]
    ) -> AsyncGenerator[Sequence[PackageDownloads], None]:
        """Yield the period's packages, and fill in `columns` before the first batch.

        This generator raises the errors, and not `read`, so that a failed day counts as queried.
        """
        dump = self._dump(period)
        if dump:
            self._check_followed(dump)
            address, dump_format = self._address_of(dump), dump.format
        elif self._is_listed:
            raise SourceDayError(f"{shown(self._location)} lists no file of {period} yet")
        else:
            address = self._location.replace(DAY_FIELD, str(period))
            dump_format = DumpFormat.of(urlsplit(address).path if "://" in address else address)
        packages = downloads = downloads_with_mirrors = 0
        with await self._fetch(period, address, dump) as file:
            batches = formats.read(file, dump_format, period)
            try:
                while rows := await in_thread(lambda: _named(next(batches, ()), dump)):
                    packages += len(rows)
                    downloads += sum(row.without_mirrors for row in rows)
                    downloads_with_mirrors += sum(row.with_mirrors for row in rows)
                    columns[:] = [one for one in self._columns if one in rows[0].breakdowns]
                    if self._packages is not None:
                        rows = [row for row in rows if row.package in self._packages]
                    yield rows
            except MalformedDumpError as error:
                message = f"{shown(address)}: {error}"
                raise SourceDayError(message, fault_kind=error.fault_kind) from error
        if not packages:
            # A list confirms below that the packages followed by its instance had no downloads.
            if dump is None:
                raise SourceDayError(f"{shown(address)} has no rows")
            columns[:] = [one for one in self._columns if one in dump.columns]
        found = (packages, downloads, downloads_with_mirrors)
        if dump and found != (dump.packages, dump.downloads, dump.downloads_with_mirrors):
            raise SourceDayError(
                f"{shown(address)} has {packages:,} packages and {downloads:,} downloads, "
                f"but the list has {dump.packages:,} and {dump.downloads:,}"
            )

    def _check_followed(self, dump: DumpFile) -> None:
        """Raise unless the file's instance had figures of all packages that are read here."""
        if dump.followed is None:
            return
        if self._packages is None:
            lacking = "has only some packages, and INGEST_PACKAGES does not name those to follow"
        elif names := sorted(self._packages - {*dump.followed.split()}):
            lacking = f"has no figures of {names[0]!r}, which INGEST_PACKAGES names"
        else:
            return
        raise SourceDayError(
            f"the file of {dump.period} listed in {shown(self._location)} {lacking}"
        )

    async def _fetch(self, period: Period, address: str, dump: DumpFile | None) -> BinaryIO:
        # The list may contain any size.
        max_bytes = min(dump.bytes, MAX_FILE_BYTES) if dump else MAX_FILE_BYTES
        only_public = bool(dump) and self._is_list_public
        try:
            fetched = await self._files.fetch(address, max_bytes, only_public=only_public)
        except SourceDayError:
            raise
        except SourceError as error:
            # The list names an address for each period, which may be on another server.
            if dump is None or urlsplit(address).netloc == urlsplit(self._location).netloc:
                raise
            kind = SourceDayUnavailableError if error.is_temporary else SourceDayError
            raise kind(str(error)) from error
        except MissingFileError:
            if dump:
                # The list may be outdated, so it is fetched again for the next day.
                self._listed_at = float("-inf")
                raise SourceUnavailableError(f"{shown(address)} is listed but missing") from None
            raise SourceDayError(f"there is no file of {period} yet at {shown(address)}") from None
        if dump and (fetched.bytes, fetched.sha256) != (dump.bytes, dump.sha256):
            fetched.file.close()
            self._listed_at = float("-inf")
            raise SourceUnavailableError(
                f"{shown(address)} differs from the list: {fetched.bytes:,} bytes with the "
                f"checksum {fetched.sha256[:12]}, instead of {dump.bytes:,} with {dump.sha256[:12]}"
            )
        return fetched.file


def _named(rows: Rows, dump: DumpFile | None) -> Rows:
    """Return the rows with normalised names.

    The names in an instance's dumps must be normalised already. No row may be rejected, because the
    published figures have to match the list.
    """
    if all(is_valid(row.package) for row in rows):
        return rows
    if dump:
        wrong = next(row.package for row in rows if not is_valid(row.package))
        raise MalformedDumpError(f"{wrong[:100]!r} is not the normalised name of a package")
    return [row._replace(package=normalise(row.package)) for row in rows]


def create_source(settings: Settings) -> FileSource:
    """Create the source from the settings. Raises `SettingsError` if `INGEST_FILES` is missing, or
    if its folder does not exist.
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
        return FileSource(files, location, breakdowns, settings.ingest_packages)
    before, day, _ = location.partition(DAY_FIELD)
    # A folder whose name contains the day may be created later, so check only its parent.
    folder = Path(f"{before}-").parent if day else Path(location)
    if not folder.is_dir():
        raise SettingsError(f"INGEST_FILES: there is no folder {folder}")
    if not day:
        location = str(folder / INDEX_NAME)
    return FileSource(LocalFiles(), location, breakdowns, settings.ingest_packages)
