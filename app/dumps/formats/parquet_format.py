"""Parquet: one row per package, with breakdowns as maps, compressed with zstd."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import DEVNULL, PIPE, Popen
from typing import Any, BinaryIO

import orjson

from app.domain.months import first_day
from app.dumps.formats.limits import MAX_LINE_BYTES, MAX_READER_BYTES, MAX_READER_SECONDS
from app.dumps.formats.rows import Rows, RowWriter
from app.dumps.listing import Figures, breakdowns_of, columns_of
from app.errors import MalformedDumpError

ROW_GROUP_ROWS = 50_000
"""Number of rows per row group. They stay in memory until the group is written."""

# Use the system's allocator. Others reserve memory, which would count against the reader's limit.
READER_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1"}


@contextmanager
def writer(file: BinaryIO, figures: Figures) -> Iterator[RowWriter]:
    import pyarrow as pa  # noqa: PLC0415 - slow to import
    from pyarrow import parquet  # noqa: PLC0415 - slow to import

    columns, breakdowns = columns_of(figures), breakdowns_of(figures)
    day = first_day(figures.period)
    counts = pa.map_(pa.string(), pa.int64())
    types = [pa.date32(), pa.string(), pa.int64(), pa.int64(), *(counts for _ in breakdowns)]
    schema = pa.schema(
        (pa.field(name, kind, nullable=False) for name, kind in zip(columns, types, strict=True)),
        {
            f"pypi_stats_{columns[0]}": str(figures.period),
            "pypi_stats_source": figures.source,
            "pypi_stats_counted_files": figures.counted_files or "",
        },
    )
    group: list[Any] = []

    def write_group() -> None:
        out.write_table(pa.Table.from_batches(group, schema))
        group.clear()

    def write(rows: Rows) -> None:
        arrays = [
            [day] * len(rows),
            *list(zip(*rows, strict=True))[:3],
            *([sorted(row.breakdowns[column].items()) for row in rows] for column in breakdowns),
        ]
        values = [pa.array(one, kind) for one, kind in zip(arrays, types, strict=True)]
        group.append(pa.record_batch(values, schema=schema))
        if sum(batch.num_rows for batch in group) >= ROW_GROUP_ROWS:
            write_group()

    with parquet.ParquetWriter(file, schema, compression="zstd") as out:
        yield write
        if group:
            write_group()


def read_rows(file: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each row, for messages, and its values by column."""
    for number, line in enumerate(lines_of(file), 1):
        place = f"row {number}"
        if len(line) > MAX_LINE_BYTES:
            raise MalformedDumpError(f"more than {MAX_LINE_BYTES:,} bytes as text", place=place)
        values = orjson.loads(line)
        if isinstance(values, str):
            raise MalformedDumpError(values)
        yield place, values


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Run `parquet_reader` in a process with limited memory, and yield its lines."""
    with Popen(
        # Without -P, modules of the current folder would be imported.
        [sys.executable, "-P", "-m", "app.dumps.formats.parquet_reader"],
        stdin=file,
        stdout=PIPE,
        stderr=DEVNULL,
        env={**os.environ, **READER_ENVIRONMENT},
    ) as process:
        assert process.stdout
        try:
            while line := process.stdout.readline(MAX_LINE_BYTES + 1):
                yield line
            if process.wait():
                raise MalformedDumpError(
                    "not readable as Parquet: the reader crashed, or needs more than "
                    f"{MAX_READER_BYTES // 2**20:,} MiB of memory or {MAX_READER_SECONDS} s"
                )
        finally:
            process.kill()
