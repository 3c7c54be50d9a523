"""CSV: a header and one line per package, with breakdowns as JSON objects, with gzip."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import orjson

from app.domain.breakdowns import BREAKDOWN_COLUMNS
from app.domain.downloads import DayFigures
from app.dumps.formats.limits import MAX_LINE_BYTES
from app.dumps.formats.rows import Rows, Write, first_line
from app.dumps.formats.text import in_order, packed, read_json, read_lines
from app.dumps.listing import DAY_COLUMN, TOTAL_COLUMNS, breakdowns_of, columns_of
from app.errors import MalformedDumpError


@contextmanager
def writer(file: BinaryIO, figures: DayFigures) -> Iterator[Write]:
    breakdowns = breakdowns_of(figures)

    def write(rows: Rows) -> None:
        buffer = io.StringIO()
        lines = csv.writer(buffer, lineterminator="\n")
        for row in rows:
            counts = (in_order(row.breakdowns[column]) for column in breakdowns)
            texts = (orjson.dumps(one).decode() for one in counts)
            lines.writerow([figures.day, *row[:3], *texts])
        text.write(buffer.getvalue().encode())

    with packed(file) as text:
        text.write(",".join(columns_of(figures)).encode() + b"\n")
        yield write


def read_rows(file: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row's place and its values by column."""
    number = size = 0

    def lines() -> Iterator[str]:
        nonlocal number, size
        for number, line in read_lines(file):
            # A quoted value can continue on the next line.
            size += len(line)
            if size > MAX_LINE_BYTES:
                raise MalformedDumpError(
                    f"the row has more than {MAX_LINE_BYTES:,} bytes", place=f"line {number}"
                )
            yield line.decode()

    # The limit is global, and no other code reads CSV.
    csv.field_size_limit(MAX_LINE_BYTES)
    try:
        head: list[str] = []
        for row in csv.reader(lines(), strict=True):
            size = 0
            place = f"line {number}"
            # Spreadsheets write blank rows with commas.
            if not any(map(str.strip, row)):
                continue
            if not head:
                head = _checked_head(row, place)
            elif len(row) != len(head):
                raise MalformedDumpError(
                    "the row has another number of columns than the header",
                    place=place,
                    value=f"{len(row)} instead of {len(head)}",
                )
            else:
                yield place, _values(place, dict(zip(head, row, strict=True)))
    except (csv.Error, UnicodeDecodeError) as error:
        raise MalformedDumpError(
            f"not valid CSV: {first_line(error)}", place=f"line {number}"
        ) from error
    if not head:
        raise MalformedDumpError("there is no header with the names of the columns")


def _checked_head(names: list[str], place: str) -> list[str]:
    for name in (*TOTAL_COLUMNS, *BREAKDOWN_COLUMNS):
        if names.count(name) > 1 or (name in TOTAL_COLUMNS and name not in names):
            raise MalformedDumpError(
                f"the header should name the column {name} once", place=place, value=names
            )
    return names


def _values(place: str, texts: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {"package": texts["package"], DAY_COLUMN: texts.get(DAY_COLUMN)}
    for column in TOTAL_COLUMNS[1:]:
        values[column] = _integer(texts[column])
    for column in BREAKDOWN_COLUMNS:
        if texts.get(column):
            place_of_value = f"{place}, package {texts['package']!r:.100}, {column}"
            values[column] = read_json(place_of_value, texts[column].strip().encode())
    return values


def _integer(text: str) -> int | str:
    # No count is longer, and Python takes long to parse longer ones.
    return int(text) if len(text) <= 20 and text.isascii() and text.isdecimal() else text
