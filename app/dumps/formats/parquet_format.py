"""Parquet: one row per package, with breakdowns as maps, compressed with zstd.

Importing this module imports pyarrow, which takes longer than the rest of a command.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from app.domain.breakdowns import BREAKDOWN_COLUMNS
from app.domain.downloads import PackageDownloads
from app.dumps.formats import limits
from app.dumps.formats.rows import Rows, Write, checked_row, first_line
from app.dumps.listing import TOTAL_COLUMNS
from app.errors import MalformedDumpError

ROW_GROUP_ROWS = 50_000
"""Rows per row group, which stay in memory until it is written."""

FOOTER_LIMITS = {"thrift_string_size_limit": 2**20, "thrift_container_size_limit": 2**20}
"""Limits of the sizes that a footer states, which may be wrong."""


@contextmanager
def writer(file: BinaryIO, breakdowns: Sequence[str]) -> Iterator[Write]:
    counts = pa.map_(pa.string(), pa.int64())
    types = [pa.string(), pa.int64(), pa.int64(), *(counts for _ in breakdowns)]
    schema = pa.schema(
        pa.field(name, kind, nullable=False)
        for name, kind in zip((*TOTAL_COLUMNS, *breakdowns), types, strict=True)
    )
    group: list[Any] = []

    def write_group() -> None:
        out.write_table(pa.Table.from_batches(group, schema))
        group.clear()

    def write(rows: Rows) -> None:
        arrays = [
            *list(zip(*rows, strict=True))[:3],
            *([sorted(row.breakdowns[column].items()) for row in rows] for column in breakdowns),
        ]
        columns = [pa.array(one, kind) for one, kind in zip(arrays, types, strict=True)]
        group.append(pa.record_batch(columns, schema=schema))
        if sum(batch.num_rows for batch in group) >= ROW_GROUP_ROWS:
            write_group()

    with parquet.ParquetWriter(file, schema, compression="zstd") as out:
        yield write
        if group:
            write_group()


def read_rows(file: BinaryIO) -> Iterator[PackageDownloads]:
    try:
        with parquet.ParquetFile(file, **FOOTER_LIMITS) as source:
            columns = _columns(source.schema_arrow)
            _check_footer(source.metadata)
            texts = _text_paths(source.schema, columns)
        # In a dictionary, a text of many rows is in memory once, until its length is checked.
        source = parquet.ParquetFile(
            file, read_dictionary=texts, buffer_size=2**20, pre_buffer=False, **FOOTER_LIMITS
        )
        number = 0
        for batch in _batches(source, columns):
            if batch.nbytes > limits.MAX_BATCH_BYTES:
                raise MalformedDumpError(
                    f"the {batch.num_rows:,} rows after row {number} have more than "
                    f"{limits.MAX_BATCH_BYTES:,} bytes"
                )
            for row in zip(*(_values(batch.column(name)) for name in columns), strict=True):
                number += 1
                yield checked_row(f"row {number}", dict(zip(columns, row, strict=True)))
    except (pa.ArrowException, OSError, ValueError) as error:
        # Arrow's message may have several lines, and a dump of memory.
        raise MalformedDumpError(f"not readable as Parquet: {first_line(error)}") from error


def _batches(source: Any, columns: list[str]) -> Iterator[Any]:
    # Each row group has its own dictionaries, which Arrow does not merge within maps.
    for group in range(source.num_row_groups):
        yield from source.iter_batches(
            limits.BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
        )


def _columns(schema: Any) -> list[str]:
    """Return the columns to read, with their types checked. Other columns may have any type."""
    columns = [*TOTAL_COLUMNS, *(name for name in BREAKDOWN_COLUMNS if name in schema.names)]
    for name in columns:
        count = schema.names.count(name)
        if count != 1:
            raise MalformedDumpError(f"there should be one column {name}, and there are {count}")
        kind = schema.field(name).type
        if name == "package":
            is_right = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            wanted = "strings"
        elif name in TOTAL_COLUMNS:
            is_right, wanted = pa.types.is_integer(kind), "integers"
        else:
            is_right = (
                pa.types.is_map(kind)
                and pa.types.is_string(kind.key_type)
                and pa.types.is_integer(kind.item_type)
            )
            wanted = "maps of strings to integers"
        if not is_right:
            raise MalformedDumpError(f"column {name} should hold {wanted}, and holds {kind}")
    return columns


def _check_footer(metadata: Any) -> None:
    if metadata.num_rows > limits.MAX_ROWS:
        raise MalformedDumpError(f"there are more than {limits.MAX_ROWS:,} rows")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    unpacked = 0
    for group in groups:
        max_values = limits.MAX_BATCH_CATEGORIES * (1 + group.num_rows // limits.BATCH_ROWS)
        for chunk in map(group.column, range(group.num_columns)):
            unpacked += chunk.total_uncompressed_size
            if chunk.total_uncompressed_size > limits.MAX_CHUNK_BYTES:
                raise MalformedDumpError(
                    f"a row group has more than {limits.MAX_CHUNK_BYTES:,} bytes of "
                    f"{chunk.path_in_schema}"
                )
            if chunk.num_values > max_values:
                raise MalformedDumpError("a row has too many categories")
    if unpacked > limits.MAX_UNPACKED_BYTES:
        raise MalformedDumpError(f"it unpacks to more than {limits.MAX_UNPACKED_BYTES:,} bytes")


def _text_paths(schema: Any, columns: list[str]) -> list[str]:
    """Return the paths of the texts to read: packages, and the keys of maps.

    Arrow reads these as dictionaries, and refuses encodings of differences, in which a few bytes
    can stand for long texts.
    """
    paths = map(schema.column, range(len(schema)))
    return [
        one.path
        for one in paths
        if one.physical_type == "BYTE_ARRAY" and one.path.partition(".")[0] in columns
    ]


def _values(array: Any) -> list[Any]:
    """Return the Python values of a column, with maps as dictionaries."""
    if pa.types.is_dictionary(array.type):
        return _texts(array)
    if not pa.types.is_map(array.type):
        values: list[Any] = array.to_pylist()
        return values
    # One list of all keys takes a fraction of the time of one list per row.
    offsets = array.offsets.to_pylist()
    keys, counts = _texts(array.keys), array.items.to_pylist()
    present = array.is_valid().to_pylist()
    return [
        _unique(keys[start:end], counts[start:end]) if is_present else None
        for start, end, is_present in zip(offsets, offsets[1:], present, strict=False)
    ]


def _texts(array: Any) -> list[Any]:
    """Return texts after a check of their total length, because they are copied to memory here."""
    lengths = pc.binary_length(array.dictionary).take(array.indices)
    total = pc.sum(lengths).as_py() or 0
    if len(array) > limits.MAX_BATCH_CATEGORIES or total > limits.MAX_BATCH_BYTES:
        raise MalformedDumpError(
            f"{limits.BATCH_ROWS:,} rows have {len(array):,} texts of {total:,} bytes in one "
            f"column: at most {limits.MAX_BATCH_CATEGORIES:,} of {limits.MAX_BATCH_BYTES:,} bytes "
            "are read"
        )
    values: list[Any] = array.dictionary_decode().to_pylist()
    return values


def _unique(keys: list[str], counts: list[int]) -> dict[str, int]:
    merged = dict(zip(keys, counts, strict=True))
    if len(merged) < len(keys):
        raise MalformedDumpError("a row has a category twice")
    return merged
