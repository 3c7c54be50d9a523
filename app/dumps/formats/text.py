"""Text files of rows, with or without gzip."""

import gzip
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from app.domain.downloads import Counts
from app.dumps.formats import limits
from app.dumps.formats.rows import first_line
from app.errors import MalformedDumpError

GZIP_LEVEL = 6
GZIP_MAGIC = b"\x1f\x8b"


def packed(file: BinaryIO) -> gzip.GzipFile:
    # Leave out the time, so that equal rows produce equal bytes.
    return gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0)


def in_order(counts: Counts) -> Counts:
    return dict(sorted(counts.items()))


def read_json(place: str, text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedDumpError(f"{place} is not valid JSON: {first_line(error)}") from None


def read_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a text, each with its number."""
    is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    text = gzip.GzipFile(fileobj=file) if is_packed else file
    number = size = 0
    try:
        while line := text.readline(limits.MAX_LINE_BYTES + 1):
            number += 1
            size += len(line)
            if len(line) > limits.MAX_LINE_BYTES:
                raise MalformedDumpError(
                    f"line {number} has more than {limits.MAX_LINE_BYTES:,} bytes"
                )
            if size > limits.MAX_UNPACKED_BYTES:
                raise MalformedDumpError(
                    f"it unpacks to more than {limits.MAX_UNPACKED_BYTES:,} bytes"
                )
            yield number, line
    except (EOFError, OSError, zlib.error) as error:
        reason = first_line(error)
        raise MalformedDumpError(f"line {number + 1} can't be unpacked: {reason}") from error
