"""The folder or bucket that dumps are written to.

Each file appears only when it is complete, under a name that identifies its content. The list of
files is replaced last, so that clients find all listed files at any time. Files that a killed
export leaves behind are not listed, and a later export removes them.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.domain.months import Period
from app.dumps.listing import INDEX_NAME, Dumps, parse, read_name
from app.errors import DumpsError, MalformedDumpError

UNFINISHED_PREFIX = ".unfinished-"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that an export has written, listed or not."""

    name: str
    size: int
    is_recent: bool
    """True if another export may be about to list the file."""

    period: Period | None
    """Day or month of the file, or None for an unfinished file."""

    is_sample: bool


@dataclass(slots=True)
class NewFile:
    """A file that is being written. Its size and checksum are set when it is complete."""

    file: BinaryIO
    bytes: int = 0
    sha256: str = ""

    def measure(self, path: Path) -> None:
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self.bytes = file.tell()


class DumpStore(ABC):
    """A folder or bucket of dumps. `str` returns its name. All methods raise `DumpsError`."""

    __slots__ = ()

    @abstractmethod
    def opened(self) -> AbstractContextManager[None]:
        """Create the store and lock it against other exports, if it is a folder."""

    @abstractmethod
    def new_file(self, name: str) -> AbstractContextManager[NewFile]:
        """Create or replace a file. It appears when the context ends without an error."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove these files. Missing files are ignored."""

    @abstractmethod
    def _read_list(self) -> bytes | None:
        """Return the list of dumps, or None if there is none."""

    @abstractmethod
    def _entries(self) -> Iterable[tuple[str, int, bool]]:
        """Return the name and size of each file, and True if it may belong to another export."""

    def dumps(self) -> Dumps:
        """Return the listed dumps."""
        text = self._read_list()
        try:
            return Dumps.listed([]) if text is None else parse(text)
        except MalformedDumpError as error:
            raise DumpsError(
                f"{self}/{INDEX_NAME} is not a list of dumps: "
                f"remove it, or write to another place ({error})"
            ) from error

    def write_list(self, dumps: Dumps) -> None:
        with self.new_file(INDEX_NAME) as new:
            new.file.write(dumps.render())

    def files(self) -> list[StoredFile]:
        """Return the files that exports have written. Other files are ignored."""
        files = []
        for name, size, is_recent in self._entries():
            finished = name.removeprefix(UNFINISHED_PREFIX)
            period_and_kind = read_name(finished)
            if finished != name and (period_and_kind or finished == INDEX_NAME):
                files.append(StoredFile(name, size, is_recent, period=None, is_sample=False))
            elif finished == name and period_and_kind:
                files.append(StoredFile(name, size, is_recent, *period_and_kind))
        return files
