"""What dumps are written to: a folder, or a bucket.

Every file appears whole, under a name that tells its content, and the list of them is replaced
last: whoever reads, at whatever moment, finds what the list names. What a killed process leaves
behind is no part of it, and goes with a later export.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.dumps.listing import INDEX_NAME, NAME, Dump, Dumps, parse
from app.errors import DumpsError, MalformedDumpError

UNFINISHED_SUFFIX = ".unfinished"

_OURS = re.compile(
    rf"{NAME}(?:{re.escape(UNFINISHED_SUFFIX)})?|{re.escape(INDEX_NAME + UNFINISHED_SUFFIX)}"
)


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
        """Have this be what is there, and remove what is not in it."""
        with self.new_file(INDEX_NAME) as (file, _):
            file.write(dumps.render())
        self.sweep(dumps)

    def sweep(self, dumps: Dumps) -> None:
        """Remove dumps that are not listed, and what was not finished. Other files stay."""
        listed = {dump.name for dump in dumps.data}
        self._remove(name for name in self._names() if name not in listed and _OURS.fullmatch(name))

    @abstractmethod
    def _read_list(self) -> bytes | None:
        """None where there is none."""

    @abstractmethod
    def _names(self) -> Iterable[str]:
        """Of the files that may be removed, when it is theirs."""

    @abstractmethod
    def _remove(self, names: Iterable[str]) -> None:
        """Those that are gone already are as well."""
