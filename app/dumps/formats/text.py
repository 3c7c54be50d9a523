"""Text files of rows, with or without gzip."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import orjson

from app.domain.downloads import Counts
from app.dumps.formats import limits
from app.dumps.formats.rows import first_line
from app.errors import MalformedDumpError

GZIP_LEVEL = 6
GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def packed(file: BinaryIO) -> gzip.GzipFile:
    # Leave out the time, so that equal rows produce equal bytes.
    return gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0)


def in_order(counts: Counts) -> Counts:
    return dict(sorted(counts.items()))


def read_json(place: str, text: bytes) -> Any:
    """Parse JSON in which no object has a key twice. Raises `MalformedDumpError`."""
    try:
        value = orjson.loads(text)
        # Compact text has the length of its value unless a key was dropped. Python's parser, which
        # reports all keys, takes ten times as long.
        if len(orjson.dumps(value)) != len(text):
            json.loads(text, object_pairs_hook=_unique, parse_int=str)
    except _DuplicateKeyError as error:
        raise MalformedDumpError(
            "a key appears twice in an object", place=place, value=error.args[0]
        ) from None
    except (ValueError, RecursionError) as error:
        raise MalformedDumpError(
            f"not valid JSON: {first_line(error)}", place=place, value=text
        ) from None
    return value


class _DuplicateKeyError(Exception):
    pass


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _DuplicateKeyError(key)
        values[key] = value
    return values


def read_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a text, each with its number, without a byte order mark."""
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
                    f"more than {limits.MAX_LINE_BYTES:,} bytes", place=f"line {number}"
                )
            if size > limits.MAX_UNPACKED_BYTES:
                raise MalformedDumpError(
                    f"it unpacks to more than {limits.MAX_UNPACKED_BYTES:,} bytes"
                )
            yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
    except (EOFError, OSError, zlib.error) as error:
        raise MalformedDumpError(
            f"can't be unpacked: {first_line(error)}", place=f"line {number + 1}"
        ) from error
