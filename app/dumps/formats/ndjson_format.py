"""NDJSON: one JSON object per line and package, with gzip."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import orjson

from app.domain.downloads import DayFigures
from app.dumps.formats.rows import Rows, Write
from app.dumps.formats.text import in_order, packed, read_json, read_lines
from app.dumps.listing import breakdowns_of, columns_of
from app.errors import MalformedDumpError


@contextmanager
def writer(file: BinaryIO, figures: DayFigures) -> Iterator[Write]:
    columns, breakdowns = columns_of(figures), breakdowns_of(figures)

    def write(rows: Rows) -> None:
        for row in rows:
            counts = (in_order(row.breakdowns[column]) for column in breakdowns)
            values = dict(zip(columns, (figures.day, *row[:3], *counts), strict=True))
            text.write(orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))

    with packed(file) as text:
        yield write


def read_rows(file: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row's place and its values by column."""
    for number, line in read_lines(file):
        if text := line.strip():
            place = f"line {number}"
            values = read_json(place, text)
            if not isinstance(values, dict):
                raise MalformedDumpError("not a JSON object", place=place, value=values)
            yield place, values
