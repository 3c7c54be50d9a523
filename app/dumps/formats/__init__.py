"""Files of a day with one row per package, in Parquet, CSV or NDJSON.

Files may come from other programs. A malformed row ends the reading with an error of one line that
names the row, its package, the column and the value.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import date
from itertools import islice
from types import ModuleType
from typing import BinaryIO

from app.domain.downloads import DayFigures, PackageDownloads
from app.dumps.formats import csv_format, limits, ndjson_format, parquet_format
from app.dumps.formats.rows import Rows, Write, checked_row
from app.dumps.listing import DumpFormat
from app.errors import MalformedDumpError

_FORMATS: dict[DumpFormat, ModuleType] = {
    DumpFormat.PARQUET: parquet_format,
    DumpFormat.CSV: csv_format,
    DumpFormat.NDJSON: ndjson_format,
}


def writer(
    file: BinaryIO, dump_format: DumpFormat, figures: DayFigures
) -> AbstractContextManager[Write]:
    """Return a context whose value writes rows of a day. The file is complete when the context
    ends. Equal rows make equal bytes.
    """
    context: AbstractContextManager[Write] = _FORMATS[dump_format].writer(file, figures)
    return context


def read(file: BinaryIO, dump_format: DumpFormat, day: date) -> Iterator[Rows]:
    """Yield the rows of a day's file in batches, all with the same breakdowns.

    Raises `MalformedDumpError`.
    """
    rows = _rows(file, dump_format, day)
    while batch := _batch(rows):
        yield batch


def _rows(file: BinaryIO, dump_format: DumpFormat, day: date) -> Iterator[PackageDownloads]:
    breakdowns = None
    read_rows = _FORMATS[dump_format].read_rows(file)
    for number, (place, values) in enumerate(read_rows, 1):
        if number > limits.MAX_ROWS:
            raise MalformedDumpError(f"there are more than {limits.MAX_ROWS:,} rows")
        row = checked_row(place, values, day)
        breakdowns = breakdowns or row.breakdowns.keys()
        if row.breakdowns.keys() != breakdowns:
            raise MalformedDumpError(
                "the breakdowns differ from those of the first row",
                place=f"{place}, package {row.package!r}",
                value=", ".join(row.breakdowns),
            )
        yield row


def _batch(rows: Iterator[PackageDownloads]) -> list[PackageDownloads]:
    batch = []
    categories = 0
    for row in islice(rows, limits.BATCH_ROWS):
        batch.append(row)
        categories += sum(map(len, row.breakdowns.values()))
        if categories >= limits.MAX_BATCH_CATEGORIES:
            break
    return batch
