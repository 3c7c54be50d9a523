"""The folder or bucket that dumps are written to.

Every file appears whole, under a name that tells its content, and the list of files is replaced
last: a client that reads at any moment finds the files that the list names. Files that a killed
export leaves behind are not listed, and a later export removes them.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import BinaryIO

from app.dumps.listing import INDEX_NAME, Dump, Dumps, parse, read_name
from app.errors import DumpsError, MalformedDumpError

UNFINISHED_SUFFIX = ".unfinished"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that an export has written, listed or not."""

    name: str
    day: date | None
    """None for a file that was not finished."""

    is_sample: bool
    is_recent: bool
    """True if another export may be about to list the file."""


@dataclass(slots=True)
class Written:
    """What a file came to, once it is there."""

    bytes: int = 0
    sha256: str = ""

    def measure(self, path: Path) -> None:
        """Take it from a file that was written to its end."""
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self.bytes = file.tell()


class DumpStore(ABC):
    """`str` of it is what people are told. Its methods raise `DumpsError`."""

    __slots__ = ()

    @abstractmethod
    def opened(self) -> AbstractContextManager[None]:
        """Have it there to be written to, and keep other exports from it where that is possible."""

    def dumps(self) -> Dumps:
        """What is listed; nothing where nothing was written yet."""
        text = self._read_list()
        if text is None:
            return Dumps.listed([])
        try:
            return parse(text)
        except MalformedDumpError as error:
            raise DumpsError(
                f"{self}/{INDEX_NAME} is no list of dumps: "
                f"remove it, or write to another place ({error})"
            ) from error

    @abstractmethod
    def holds(self, dump: Dump) -> bool:
        """Whether the file is there, in its length."""

    @abstractmethod
    def new_file(self, name: str) -> AbstractContextManager[tuple[BinaryIO, Written]]:
        """A file to write to. When this ends without an error it is there under its name, to
        stay.
        """

    def write_list(self, dumps: Dumps) -> None:
        with self.new_file(INDEX_NAME) as (file, _):
            file.write(dumps.render())

    def files(self) -> list[StoredFile]:
        """The files that exports have written. Other files are not for this code to touch."""
        return [
            StoredFile(name, *of_name, is_recent=is_recent)
            for name, is_recent in self._names()
            if (of_name := _of_name(name))
        ]

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove the files that are still there."""

    @abstractmethod
    def _read_list(self) -> bytes | None:
        """None where there is none."""

    @abstractmethod
    def _names(self) -> Iterable[tuple[str, bool]]:
        """The name of each file, and True if another export may be about to list it."""


def _of_name(name: str) -> tuple[date | None, bool] | None:
    """The day and kind of a file that an export has written, None for any other."""
    finished = name.removesuffix(UNFINISHED_SUFFIX)
    of_dump = read_name(finished)
    if name == finished:
        return of_dump
    return (None, False) if of_dump or finished == INDEX_NAME else None
