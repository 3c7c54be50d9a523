"""The folder that dumps are written to, and that the service lists."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.dumps.listing import INDEX_NAME, Dump
from app.dumps.stores.store import UNFINISHED_SUFFIX, DumpStore, Written
from app.errors import DumpsError


@dataclass(frozen=True, slots=True)
class DumpFolder(DumpStore):
    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The lock dies with its holder."""
        with self._errors():
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with self._errors():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)

    def holds(self, dump: Dump) -> bool:
        with self._errors(), suppress(FileNotFoundError):
            return (self.path / dump.name).stat().st_size == dump.bytes
        return False

    @contextmanager
    def new_file(self, name: str) -> Iterator[tuple[BinaryIO, Written]]:
        """It is written beside its name, brought to the disk, and renamed."""
        unfinished = self.path / f"{name}{UNFINISHED_SUFFIX}"
        written = Written()
        try:
            with self._errors():
                with unfinished.open("wb") as file:
                    yield file, written
                    file.flush()
                    os.fsync(file.fileno())
                written.measure(unfinished)
                unfinished.replace(self.path / name)
                self._sync()
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise

    def _read_list(self) -> bytes | None:
        with self._errors(), suppress(FileNotFoundError):
            return (self.path / INDEX_NAME).read_bytes()
        return None

    def _names(self) -> Iterable[tuple[str, bool]]:
        # The lock keeps other exports out.
        with self._errors():
            return [(path.name, False) for path in self.path.iterdir()]

    def remove(self, names: Iterable[str]) -> None:
        with self._errors():
            for name in names:
                (self.path / name).unlink(missing_ok=True)

    def _sync(self) -> None:
        # That a file has its name is on the disk once its folder is.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
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
