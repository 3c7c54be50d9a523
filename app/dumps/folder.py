"""The folder that dumps are written to.

Every file appears whole, under a name that tells its content, and the list of them is replaced
last: whoever reads, at whatever moment, finds what the list names. What a killed process leaves
behind is no part of it, and goes with the next export.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from app.dumps.listing import INDEX_NAME, NAME, Dump, Dumps, parse
from app.errors import DumpsError, MalformedDumpError

UNFINISHED_SUFFIX = ".unfinished"

_OURS = re.compile(
    rf"{NAME}(?:{re.escape(UNFINISHED_SUFFIX)})?|{re.escape(INDEX_NAME)}\.unfinished"
)


@dataclass(slots=True)
class Written:
    """What a file came to, once it is there."""

    bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class DumpFolder:
    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder where it is not there, and keep other exports from it.

        The lock dies with its holder. Raises `DumpsError`.
        """
        with self._errors():
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with self._errors():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)

    def dumps(self) -> Dumps:
        """What is listed; nothing where nothing was written yet. Raises `DumpsError`."""
        path = self.path / INDEX_NAME
        with self._errors():
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                return Dumps.listed([])
        try:
            return parse(text)
        except MalformedDumpError as error:
            raise DumpsError(
                f"{path} is no list of dumps: remove it, or choose another folder ({error})"
            ) from error

    def holds(self, dump: Dump) -> bool:
        """Whether the file is there, in its length."""
        with self._errors(), suppress(FileNotFoundError):
            return (self.path / dump.name).stat().st_size == dump.bytes
        return False

    @contextmanager
    def new_file(self, name: str) -> Iterator[tuple[BinaryIO, Written]]:
        """A file to write to. When this ends without an error it is there under its name, and on
        the disk.
        """
        unfinished = self.path / f"{name}{UNFINISHED_SUFFIX}"
        written = Written()
        try:
            with self._errors():
                with unfinished.open("w+b") as file:
                    yield cast("BinaryIO", file), written
                    file.flush()
                    os.fsync(file.fileno())
                    written.bytes = file.tell()
                    file.seek(0)
                    written.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                unfinished.replace(self.path / name)
                self._sync()
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise

    def write_list(self, dumps: Dumps) -> None:
        """Have this be what is there, and remove what is not in it."""
        with self.new_file(INDEX_NAME) as (file, _):
            file.write(dumps.render())
        self.sweep(dumps)

    def sweep(self, dumps: Dumps) -> None:
        """Remove dumps that are not listed, and what was not finished. Other files stay."""
        kept = {dump.name for dump in dumps.data} | {INDEX_NAME}
        with self._errors():
            for path in self.path.iterdir():
                if path.name not in kept and _OURS.fullmatch(path.name):
                    path.unlink(missing_ok=True)

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
            raise DumpsError(f"another export writes to {self.path}") from error
        except OSError as error:
            raise DumpsError(f"the dumps in {self.path}: {error.strerror or error}") from error
