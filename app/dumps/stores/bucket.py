"""A bucket of dumps in S3, in S3-compatible storage, or in Google Cloud Storage.

Importing this module imports pyarrow, which takes longer than the rest of a command.

An object appears only when it is complete, so no object has to be renamed. There is no lock,
because two concurrent exports write the same bytes under the same names. The list of one of them
replaces the list of the other, and the next export completes it.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Self, cast
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem, copy_files

from app.domain.clock import Clock
from app.dumps.formats.rows import first_line
from app.dumps.listing import INDEX_NAME, MAX_LISTING_BYTES
from app.dumps.stores.store import DumpStore, NewFile
from app.errors import DumpsError

RECENT = timedelta(hours=1)
"""Maximum age of an unlisted file that another export may still be about to list."""

GOOGLE_RETRY_SECONDS = 60
"""How long Google's library retries a call. Its default is 15 minutes."""


@dataclass(frozen=True, slots=True)
class DumpBucket(DumpStore):
    filesystem: Any
    """Arrow's file system. It finds credentials in the same places as the cloud's own tools."""

    scheme: str
    path: str
    """The bucket, and the prefix of its objects."""

    clock: Clock

    @classmethod
    def at(cls, address: str, clock: Clock) -> Self:
        """Return the bucket at an address such as s3://bucket/prefix. Raises `DumpsError`."""
        scheme = address.partition("://")[0]
        if scheme == "gs" and "retry_limit_seconds=" not in address:
            address += f"{'&' if '?' in address else '?'}retry_limit_seconds={GOOGLE_RETRY_SECONDS}"
        try:
            filesystem, path = FileSystem.from_uri(address)
        except pa.ArrowInvalid:
            # Arrow's message repeats the address, which may contain secrets.
            raise DumpsError(
                f"the address of the bucket can't be read: it should look like "
                f"{scheme}://bucket/prefix, with special characters %-encoded"
            ) from None
        except OSError as error:
            bucket = urlsplit(address).netloc.rpartition("@")[2]
            raise DumpsError(f"the bucket {scheme}://{bucket}: {first_line(error)}") from error
        return cls(filesystem, scheme, path, clock)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def opened(self) -> nullcontext[None]:
        return nullcontext()

    @contextmanager
    def new_file(self, name: str) -> Iterator[NewFile]:
        """Write a temporary file and upload it, so that a failure leaves nothing in the bucket."""
        with self._errors(), tempfile.NamedTemporaryFile() as file:
            new = NewFile(cast("BinaryIO", file))
            yield new
            file.flush()
            new.measure(Path(file.name))
            # No signal can interrupt this call, so that an incomplete object never appears.
            copy_files(
                file.name,
                self._path_of(name),
                source_filesystem=LocalFileSystem(),
                destination_filesystem=self.filesystem,
            )

    def remove(self, names: Iterable[str]) -> None:
        with self._errors():
            for name in names:
                with suppress(FileNotFoundError):
                    self.filesystem.delete_file(self._path_of(name))

    def _read_list(self) -> bytes | None:
        with self._errors(), suppress(FileNotFoundError):
            with self.filesystem.open_input_stream(self._path_of(INDEX_NAME)) as file:
                content: bytes = file.read(MAX_LISTING_BYTES + 1)
            return content
        return None

    def _entries(self) -> Iterable[tuple[str, int, bool]]:
        recent_from = self.clock() - RECENT
        with self._errors():
            # Without objects, the prefix does not exist.
            found = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
        return [(one.base_name, one.size, one.mtime > recent_from) for one in found if one.is_file]

    def _path_of(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise DumpsError(f"the dumps in {self}: {first_line(error)}") from error
