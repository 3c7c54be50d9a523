"""A folder of dumps, which the service can list."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from app.dumps.listing import INDEX_NAME, MAX_LISTING_BYTES
from app.dumps.stores.store import UNFINISHED_PREFIX, DumpStore, NewFile
from app.errors import DumpsError


def open_regular(path: Path, *, follows_links: bool = False) -> BufferedReader:
    """Open a regular file. Raises `OSError` for a link, unless `follows_links`, and for a pipe,
    without waiting for its writer.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follows_links else os.O_NOFOLLOW)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file")
    return file


@dataclass(frozen=True, slots=True)
class DumpFolder(DumpStore):
    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def opened(self) -> Iterator[None]:
        with self._errors():
            self.path.mkdir(parents=True, exist_ok=True)
        with self._descriptor() as folder:
            with self._errors():
                # The kernel releases the lock when its process ends.
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    @contextmanager
    def new_file(self, name: str) -> Iterator[NewFile]:
        """Write under a temporary name, flush to the disk, and rename."""
        unfinished = self.path / f"{UNFINISHED_PREFIX}{name}"
        try:
            with self._errors():
                with unfinished.open("wb") as file:
                    new = NewFile(file)
                    yield new
                    file.flush()
                    os.fsync(file.fileno())
                new.measure(unfinished)
                unfinished.replace(self.path / name)
                # Flush the folder too, which contains the new name.
                with self._descriptor() as folder:
                    os.fsync(folder)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise

    def remove(self, names: Iterable[str]) -> None:
        with self._errors():
            for name in names:
                (self.path / name).unlink(missing_ok=True)

    def _read_list(self) -> bytes | None:
        path = self.path / INDEX_NAME
        with self._errors(), suppress(FileNotFoundError), open_regular(path) as file:
            return file.read(MAX_LISTING_BYTES + 1)
        return None

    def _entries(self) -> Iterable[tuple[str, int, bool]]:
        # Because of the lock, no file belongs to another export.
        entries = []
        with self._errors():
            for path in filter(Path.is_file, self.path.iterdir()):
                with suppress(FileNotFoundError):
                    entries.append((path.name, path.stat().st_size, False))
        return entries

    @contextmanager
    def _descriptor(self) -> Iterator[int]:
        with self._errors():
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError as error:
            raise DumpsError(f"another export writes to {self}") from error
        except OSError as error:
            raise DumpsError(f"the dumps in {self}: {error.strerror or error}") from error
