"""Files of a day or a month with one row per package, in Parquet, CSV or NDJSON.

Files may come from other programs. A malformed row ends the reading with an error, whose single
line names the row, its package, the column and the value.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from app.domain.downloads import PackageDownloads
from app.domain.months import Period
from app.dumps.formats import limits, parquet_format, text_formats
from app.dumps.formats.rows import Rows, RowWriter, checked_row
from app.dumps.listing import DumpFormat, Figures
from app.errors import MalformedDumpError

_FORMATS = {
    DumpFormat.PARQUET: (parquet_format.writer, parquet_format.read_rows),
    DumpFormat.CSV: (text_formats.csv_writer, text_formats.csv_rows),
    DumpFormat.NDJSON: (text_formats.ndjson_writer, text_formats.ndjson_rows),
}


def writer(
    file: BinaryIO, dump_format: DumpFormat, figures: Figures
) -> AbstractContextManager[RowWriter]:
    """Return a context whose value is a function that writes rows. The file is complete
    when the context ends. Equal rows produce equal bytes.
    """
    return _FORMATS[dump_format][0](file, figures)


def read(file: BinaryIO, dump_format: DumpFormat, period: Period) -> Iterator[Rows]:
    """Yield the rows of a period's file in batches, all with the same breakdowns.

    Raises `MalformedDumpError`.
    """
    batch: list[PackageDownloads] = []
    categories, breakdowns = 0, None
    for number, (place, values) in enumerate(_FORMATS[dump_format][1](file), 1):
        if number > limits.MAX_ROWS:
            raise MalformedDumpError(f"there are more than {limits.MAX_ROWS:,} rows")
        row = checked_row(place, values, period)
        breakdowns = breakdowns or row.breakdowns.keys()
        if row.breakdowns.keys() != breakdowns:
            raise MalformedDumpError(
                "the breakdowns differ from those of the first row",
                place=f"{place}, package {row.package!r}",
                value=", ".join(row.breakdowns),
            )
        batch.append(row)
        categories += sum(map(len, row.breakdowns.values()))
        if len(batch) == limits.BATCH_ROWS or categories >= limits.MAX_BATCH_CATEGORIES:
            yield batch
            batch, categories = [], 0
    if batch:
        yield batch
