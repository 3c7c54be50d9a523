"""CSV: a header and one line per package, with breakdowns as JSON objects, with gzip."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import orjson

from app.domain.breakdowns import BREAKDOWN_COLUMNS
from app.domain.downloads import PackageDownloads
from app.dumps.formats.limits import MAX_LINE_BYTES
from app.dumps.formats.rows import Rows, Write, checked_row, first_line
from app.dumps.formats.text import in_order, packed, read_json, read_lines
from app.dumps.listing import TOTAL_COLUMNS
from app.errors import MalformedDumpError


@contextmanager
def writer(file: BinaryIO, breakdowns: Sequence[str]) -> Iterator[Write]:
    def write(rows: Rows) -> None:
        buffer = io.StringIO()
        lines = csv.writer(buffer, lineterminator="\n")
        for row in rows:
            counts = (in_order(row.breakdowns[column]) for column in breakdowns)
            lines.writerow([*row[:3], *(orjson.dumps(one).decode() for one in counts)])
        text.write(buffer.getvalue().encode())

    with packed(file) as text:
        text.write(",".join((*TOTAL_COLUMNS, *breakdowns)).encode() + b"\n")
        yield write


def read_rows(file: BinaryIO) -> Iterator[PackageDownloads]:
    number = size = 0

    def lines() -> Iterator[str]:
        nonlocal number, size
        for number, line in read_lines(file):
            # A quoted value can continue on the next line.
            size += len(line)
            if size > MAX_LINE_BYTES:
                raise MalformedDumpError(
                    f"the row until line {number} has more than {MAX_LINE_BYTES:,} bytes"
                )
            yield line.decode()

    # The limit is global, and no other code reads CSV.
    csv.field_size_limit(MAX_LINE_BYTES)
    try:
        rows = csv.reader(lines(), strict=True)
        head = next(rows, [])
        missing = [name for name in TOTAL_COLUMNS if head.count(name) != 1]
        if missing:
            raise MalformedDumpError(f"the first line should name the column {missing[0]} once")
        size = 0
        for row in rows:
            size = 0
            place = f"line {number}"
            if len(row) != len(head):
                raise MalformedDumpError(f"{place} has {len(row)} of {len(head)} columns")
            texts = dict(zip(head, row, strict=True))
            values: dict[str, Any] = {"package": texts["package"]}
            values |= {column: _integer(texts[column]) for column in TOTAL_COLUMNS[1:]}
            values |= {
                column: read_json(place, texts[column].encode())
                for column in BREAKDOWN_COLUMNS
                if texts.get(column)
            }
            yield checked_row(place, values)
    except (csv.Error, UnicodeDecodeError) as error:
        raise MalformedDumpError(f"line {number} is not valid CSV: {first_line(error)}") from error


def _integer(text: str) -> int | None:
    # No count is longer, and Python takes long to parse longer ones.
    return int(text) if len(text) <= 20 and text.isascii() and text.isdecimal() else None
