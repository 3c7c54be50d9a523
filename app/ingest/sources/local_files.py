"""Files on this machine, as the file source reads them."""

import asyncio
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import urlsplit

from app.errors import SourceDayError, SourceError

Result = TypeVar("Result")

CHUNK_BYTES = 2**20


class MissingFileError(Exception):
    """There is no file at an address."""


@dataclass(frozen=True, slots=True)
class FetchedFile:
    file: BinaryIO
    """The file, positioned at its beginning."""

    bytes: int
    sha256: str
    is_public: bool = False
    """True if it came from a server on the Internet."""


class Files(Protocol):
    async def fetch(self, address: str, max_bytes: int, *, only_public: bool) -> FetchedFile:
        """Fetch a whole file. With `only_public`, connect to no private address, because a server
        on the Internet has chosen the file's address.

        Raises `SourceError`, and `MissingFileError` if the file does not exist.
        """


class LocalFiles:
    async def fetch(self, address: str, max_bytes: int, *, only_public: bool) -> FetchedFile:
        del only_public
        with _local_errors(address), closed_on_error(_opened(address)) as file:
            return await in_thread(lambda: _hashed(file, max_bytes, address))


def _opened(address: str) -> BinaryIO:
    # A pipe would block this process until another one opens it.
    descriptor = os.open(address, os.O_RDONLY | os.O_NONBLOCK)
    file = os.fdopen(descriptor, "rb")
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return file
    file.close()
    raise SourceError(f"{address} can't be read: it is not a regular file")


def _hashed(file: BinaryIO, max_bytes: int, address: str) -> FetchedFile:
    digest = hashlib.sha256()
    size = 0
    while chunk := file.read(CHUNK_BYTES):
        size += len(chunk)
        check_size(size, max_bytes, address)
        digest.update(chunk)
    file.seek(0)
    return FetchedFile(file, size, digest.hexdigest())


def check_size(size: int, max_bytes: int, address: str) -> None:
    if size > max_bytes:
        raise SourceDayError(f"{shown(address)} has more than {max_bytes:,} bytes")


def shown(address: str) -> str:
    """Return an address for messages, without the parts that may be secret."""
    if "://" not in address:
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return f"{address.partition('://')[0]}://"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def closed_on_error(file: BinaryIO) -> Iterator[BinaryIO]:
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
        raise MissingFileError from None
    except OSError as error:
        raise SourceError(f"{address} can't be read: {error.strerror or error}") from error


async def in_thread(function: Callable[[], Result]) -> Result:
    """Run a function that reads from the disk in a thread. If the task is cancelled, wait until the
    function returns, so that the caller can close the files that it uses.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise
