"""The bucket that dumps are written to, in S3, in Google Cloud Storage, or in what speaks as S3
does.

An object appears when it is there to its end, so that nothing has to be renamed. There is no lock:
two exports at once write the same bytes under the same names, and of their lists the last one
stays, which the next export completes.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Self, cast
from urllib.parse import urlsplit

from app.domain.clock import Clock
from app.dumps.formats import first_line
from app.dumps.listing import INDEX_NAME, Dump
from app.dumps.stores.store import DumpStore, Written
from app.errors import DumpsError

ADDRESS = re.compile(r"(s3|gs)://([^/?#]*@)?[^/?#@]+(/[^?#]*)?(\?[^#]*)?")
"""What is before the `@`, and after the `?`, is for Arrow: it may well be secret."""

RECENT = timedelta(hours=1)
"""Age up to which a file may be one that another export is about to list."""

GOOGLE_RETRY_SECONDS = 60
"""Google's library goes on for a quarter of an hour where nobody says how long it should."""


@dataclass(frozen=True, slots=True)
class DumpBucket(DumpStore):
    filesystem: Any
    """Of Arrow, which finds credentials where the cloud's own tools do."""

    scheme: str
    path: str
    """The bucket, and what the names of its objects begin with."""

    clock: Clock

    @classmethod
    def at(cls, address: str, clock: Clock) -> Self:
        """Raises `DumpsError`."""
        # It takes longer to import than the rest of a command.
        import pyarrow as pa  # noqa: PLC0415 - slow to import
        from pyarrow.fs import FileSystem  # noqa: PLC0415 - slow to import

        scheme = address.partition("://")[0]
        if scheme == "gs" and "retry_limit_seconds=" not in address:
            address += f"{'&' if '?' in address else '?'}retry_limit_seconds={GOOGLE_RETRY_SECONDS}"
        try:
            filesystem, path = FileSystem.from_uri(address)
        except pa.ArrowInvalid:
            # It repeats the address, with what is secret in it.
            raise DumpsError(
                f"the address of the bucket can't be read: it should look like "
                f"{scheme}://bucket/prefix, with what is special in it %-encoded"
            ) from None
        except OSError as error:
            bucket = urlsplit(address).netloc.rpartition("@")[2]
            raise DumpsError(f"the bucket {scheme}://{bucket}: {first_line(error)}") from error
        return cls(filesystem, scheme, path, clock)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def opened(self) -> nullcontext[None]:
        return nullcontext()

    def holds(self, dump: Dump) -> bool:
        with self._errors():
            size: int | None = self.filesystem.get_file_info(self._path_of(dump.name)).size
        return size == dump.bytes

    @contextmanager
    def new_file(self, name: str) -> Iterator[tuple[BinaryIO, Written]]:
        """It is written on this machine's disk, and copied from there: what fails before leaves
        nothing in the bucket.
        """
        from pyarrow.fs import LocalFileSystem, copy_files  # noqa: PLC0415 - slow to import

        written = Written()
        with self._errors(), tempfile.NamedTemporaryFile() as file:
            yield cast("BinaryIO", file), written
            file.flush()
            written.measure(Path(file.name))
            # In one call, which no signal ends between an object's beginning and its end: half of
            # it would appear as if it were whole.
            copy_files(
                file.name,
                self._path_of(name),
                source_filesystem=LocalFileSystem(),
                destination_filesystem=self.filesystem,
            )

    def _read_list(self) -> bytes | None:
        with self._errors(), suppress(FileNotFoundError):
            with self.filesystem.open_input_stream(self._path_of(INDEX_NAME)) as file:
                content: bytes = file.read()
            return content
        return None

    def _names(self) -> Iterable[tuple[str, bool]]:
        from pyarrow.fs import FileSelector  # noqa: PLC0415 - slow to import

        recent_from = self.clock() - RECENT
        with self._errors():
            # A prefix that nothing begins with yet is not found.
            found = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
        return [(one.base_name, one.mtime > recent_from) for one in found if one.is_file]

    def remove(self, names: Iterable[str]) -> None:
        with self._errors():
            for name in names:
                with suppress(FileNotFoundError):
                    self.filesystem.delete_file(self._path_of(name))

    def _path_of(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import pyarrow as pa  # noqa: PLC0415 - slow to import

        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise DumpsError(f"the dumps in {self}: {first_line(error)}") from error
