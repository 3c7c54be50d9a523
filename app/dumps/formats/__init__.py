"""Files of a day with one row per package, in Parquet, CSV or NDJSON.

Files may come from other programs. A malformed row ends the reading with an error of one line that
names its place.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from types import ModuleType
from typing import BinaryIO

from app.domain.downloads import PackageDownloads
from app.dumps.formats import csv_format, limits, ndjson_format
from app.dumps.formats.rows import Rows, Write, weight
from app.dumps.listing import DumpFormat
from app.errors import MalformedDumpError


def writer(
    file: BinaryIO, dump_format: DumpFormat, breakdowns: Sequence[str]
) -> AbstractContextManager[Write]:
    """Return a context whose value writes rows with these breakdowns. The file is complete when the
    context ends. Equal rows make equal bytes.
    """
    context: AbstractContextManager[Write] = _format(dump_format).writer(file, breakdowns)
    return context


def read(file: BinaryIO, dump_format: DumpFormat) -> Iterator[Rows]:
    """Yield the rows of a file in batches, all with the same breakdowns.

    Raises `MalformedDumpError`.
    """
    rows: Iterator[PackageDownloads] = _format(dump_format).read_rows(file)
    count = 0
    breakdowns = None
    while batch := _batch(rows):
        count += len(batch)
        if count > limits.MAX_ROWS:
            raise MalformedDumpError(f"there are more than {limits.MAX_ROWS:,} rows")
        breakdowns = breakdowns or batch[0].breakdowns.keys()
        for row in batch:
            if row.breakdowns.keys() != breakdowns:
                raise MalformedDumpError(f"{row.package} has other breakdowns than the first row")
        yield batch


def _format(dump_format: DumpFormat) -> ModuleType:
    """Return the module that reads and writes a format."""
    if dump_format is DumpFormat.CSV:
        return csv_format
    if dump_format is DumpFormat.NDJSON:
        return ndjson_format
    from app.dumps.formats import parquet_format  # noqa: PLC0415 - pyarrow is slow to import

    return parquet_format


def _batch(rows: Iterator[PackageDownloads]) -> list[PackageDownloads]:
    batch = []
    batch_weight = 0
    for row in islice(rows, limits.BATCH_ROWS):
        batch.append(row)
        batch_weight += sum(map(weight, row.breakdowns.values()))
        if batch_weight >= limits.MAX_BATCH_WEIGHT:
            break
    return batch
