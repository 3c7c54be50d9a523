"""CSV and NDJSON: one row per package, with breakdowns as JSON objects, with or without gzip."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import orjson

from app.domain.breakdowns import BREAKDOWN_COLUMNS
from app.domain.months import first_day
from app.dumps.formats import limits
from app.dumps.formats.rows import Rows, RowWriter, first_line, parse_json
from app.dumps.listing import TOTAL_COLUMNS, Figures, breakdowns_of, columns_of
from app.errors import MalformedDumpError

GZIP_LEVEL = 6
GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@contextmanager
def csv_writer(file: BinaryIO, figures: Figures) -> Iterator[RowWriter]:
    def write(rows: Rows) -> None:
        buffer = io.StringIO()
        lines = csv.writer(buffer, lineterminator="\n")
        for day, *totals, counts in _values(figures, rows):
            lines.writerow([day, *totals, *(orjson.dumps(one).decode() for one in counts)])
        text.write(buffer.getvalue().encode())

    with _packed(file) as text:
        text.write(",".join(columns_of(figures)).encode() + b"\n")
        yield write


@contextmanager
def ndjson_writer(file: BinaryIO, figures: Figures) -> Iterator[RowWriter]:
    columns = columns_of(figures)

    def write(rows: Rows) -> None:
        for *totals, counts in _values(figures, rows):
            values = dict(zip(columns, (*totals, *counts), strict=True))
            text.write(orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))

    with _packed(file) as text:
        yield write


def _packed(file: BinaryIO) -> gzip.GzipFile:
    # Omit the time, so that equal rows produce equal bytes.
    return gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0)


def _values(figures: Figures, rows: Rows) -> Iterator[tuple[Any, ...]]:
    """Yield each row's first day, package, totals, and counts in the order of the columns."""
    day, breakdowns = first_day(figures.period), breakdowns_of(figures)
    for row in rows:
        counts = [dict(sorted(row.breakdowns[column].items())) for column in breakdowns]
        yield day, *row[:3], counts


def ndjson_rows(file: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each row, for messages, and its values by column."""
    for number, line in _lines(file):
        if text := line.strip():
            place = f"line {number}"
            values = parse_json(place, text)
            if not isinstance(values, dict):
                raise MalformedDumpError("not a JSON object", place=place, value=values)
            yield place, values


def csv_rows(file: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each row, for messages, and its values by column."""
    number = size = 0

    def lines() -> Iterator[str]:
        nonlocal number, size
        for number, line in _lines(file):
            # A quoted value can continue on the next line.
            size += len(line)
            if size > limits.MAX_LINE_BYTES:
                raise MalformedDumpError(
                    f"the row has more than {limits.MAX_LINE_BYTES:,} bytes", place=f"line {number}"
                )
            yield line.decode()

    # This limit is global, but no other code reads CSV.
    csv.field_size_limit(limits.MAX_LINE_BYTES)
    head: list[str] = []
    try:
        for row in csv.reader(lines(), strict=True):
            size = 0
            place = f"line {number}"
            # Skip blank rows, which spreadsheets write as commas.
            if not any(map(str.strip, row)):
                continue
            if not head:
                head = row
                _check_head(head, place)
            elif len(row) != len(head):
                raise MalformedDumpError(
                    "the row has another number of columns than the header",
                    place=place,
                    value=f"{len(row)} instead of {len(head)}",
                )
            else:
                yield place, _parsed(dict(zip(head, row, strict=True)))
    except (csv.Error, UnicodeDecodeError) as error:
        message = f"not valid CSV: {first_line(error)}"
        raise MalformedDumpError(message, place=f"line {number}") from error
    if not head:
        raise MalformedDumpError("there is no header with the names of the columns")


def _check_head(names: Sequence[str], place: str) -> None:
    for name in (*TOTAL_COLUMNS, *BREAKDOWN_COLUMNS):
        if names.count(name) > 1 or (name in TOTAL_COLUMNS and name not in names):
            raise MalformedDumpError(
                f"the header should name the column {name} once", place=place, value=names
            )


def _parsed(texts: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for column in TOTAL_COLUMNS[1:]:
        text = texts[column]
        # Valid counts are not longer, and parsing longer numbers takes long.
        is_number = len(text) <= 20 and text.isascii() and text.isdecimal()
        values[column] = int(text) if is_number else text
    return texts | values


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a text, each with its number, without a byte order mark."""
    is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    text = gzip.GzipFile(fileobj=file) if is_packed else file
    number = size = 0
    try:
        while line := text.readline(limits.MAX_LINE_BYTES + 1):
            number += 1
            size += len(line)
            if number > limits.MAX_LINES:
                raise MalformedDumpError(f"there are more than {limits.MAX_LINES:,} lines")
            if len(line) > limits.MAX_LINE_BYTES:
                message = f"more than {limits.MAX_LINE_BYTES:,} bytes"
                raise MalformedDumpError(message, place=f"line {number}")
            if size > limits.MAX_UNPACKED_BYTES:
                message = f"it unpacks to more than {limits.MAX_UNPACKED_BYTES:,} bytes"
                raise MalformedDumpError(message)
            yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
    except (EOFError, OSError, zlib.error) as error:
        message = f"can't be unpacked: {first_line(error)}"
        raise MalformedDumpError(message, place=f"line {number + 1}") from error
