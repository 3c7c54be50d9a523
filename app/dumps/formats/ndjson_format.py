"""NDJSON: one JSON object per line and package, with gzip."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import orjson

from app.domain.downloads import PackageDownloads
from app.dumps.formats.rows import Rows, Write, checked_row
from app.dumps.formats.text import in_order, packed, read_json, read_lines
from app.dumps.listing import TOTAL_COLUMNS
from app.errors import MalformedDumpError


@contextmanager
def writer(file: BinaryIO, breakdowns: Sequence[str]) -> Iterator[Write]:
    columns = (*TOTAL_COLUMNS, *breakdowns)

    def write(rows: Rows) -> None:
        for row in rows:
            counts = (in_order(row.breakdowns[column]) for column in breakdowns)
            values = dict(zip(columns, (*row[:3], *counts), strict=True))
            text.write(orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))

    with packed(file) as text:
        yield write


def read_rows(file: BinaryIO) -> Iterator[PackageDownloads]:
    for number, line in read_lines(file):
        place = f"line {number}"
        values = read_json(place, line)
        if not isinstance(values, dict):
            raise MalformedDumpError(f"{place} is not a JSON object")
        yield checked_row(place, values)
