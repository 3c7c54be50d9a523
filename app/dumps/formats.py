"""The files of a day: a row a package, in Parquet, CSV or NDJSON.

What is written here is read here, and by much else. What is read may come from anybody: it is taken
in bounded pieces, and a row that is none ends it with a line that says where.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, cast

import orjson

from app.domain.breakdowns import BREAKDOWN_COLUMNS, REQUIRED_COLUMNS
from app.domain.downloads import Counts, PackageDownloads
from app.dumps.listing import TOTAL_COLUMNS, DumpFormat
from app.errors import MalformedDumpError

BATCH_ROWS = 2_000
"""Written, and read, at a time."""

ROW_GROUP_ROWS = 50_000
"""Of Parquet, held in memory while it is written."""

MAX_ROWS = 5_000_000
"""Of a day. PyPI has less than a million packages."""

MAX_LINE_BYTES = 4 * 2**20
"""Of a row as text, however many lines it has in CSV. Most have some hundred bytes."""

MAX_UNPACKED_BYTES = 8 * 2**30
"""A day of PyPI has some hundred million."""

MAX_CHUNK_BYTES = 256 * 2**20
"""Unpacked, of a column in a row group of Parquet, which is unpacked page by page and may be a
single one. A day of PyPI in one row group has some 50 MB.
"""

MAX_PACKAGE_CHARACTERS = 1_000
"""More than a name may have, which the pipeline judges."""

MAX_BREAKDOWN_WEIGHT = 2**20
"""Of one breakdown of a row, in characters of its categories, each with `CATEGORY_WEIGHT`: some
10,000 categories. What Python version downloads were made with anybody can make up, so this is far
more than there are of any."""

CATEGORY_WEIGHT = 100
"""What a category takes besides its characters, about."""

MAX_BATCH_WEIGHT = 2**24
"""Held at a time. 2,000 rows of PyPI have a third."""

MAX_BATCH_CATEGORIES = 1_000_000
"""In a column of Parquet, of rows that are read at a time."""

MAX_BATCH_BYTES = 64 * 2**20
"""Of these rows before they are Python's, and of the texts of a column. Usual ones have some
500 kB."""

TOO_MANY: Counts = {"": 0}
"""In place of a breakdown that has more than it may. No count is zero, so that the pipeline
counts the row as wrong; the rest of the file is read."""

GZIP_LEVEL = 6
GZIP_MAGIC = b"\x1f\x8b"

Rows = Sequence[PackageDownloads]
Write = Callable[[Rows], None]


@contextmanager
def writer(file: BinaryIO, dump_format: DumpFormat, breakdowns: Sequence[str]) -> Iterator[Write]:
    """Write rows with these breakdowns to the file, which is whole when this ends. Equal rows make
    equal bytes.
    """
    if dump_format is DumpFormat.PARQUET:
        with _parquet_writer(file, breakdowns) as write:
            yield write
        return
    # Without the time: what is the same should look the same.
    with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
        if dump_format is DumpFormat.CSV:
            packed.write(",".join((*TOTAL_COLUMNS, *breakdowns)).encode() + b"\n")
            yield partial(_write_csv, packed, breakdowns)
        else:
            yield partial(_write_ndjson, packed, breakdowns)


def read(file: BinaryIO, dump_format: DumpFormat) -> Iterator[Rows]:
    """The rows of a file in batches, all with the same breakdowns. Raises `MalformedDumpError`."""
    rows = _READERS[dump_format](file)
    count = 0
    breakdowns = None
    while batch := _batch(rows):
        count += len(batch)
        if count > MAX_ROWS:
            raise MalformedDumpError(f"there are more than {MAX_ROWS:,} rows")
        breakdowns = breakdowns or batch[0].breakdowns.keys()
        for row in batch:
            if row.breakdowns.keys() != breakdowns:
                raise MalformedDumpError(f"{row.package} has other breakdowns than the first row")
        yield batch


def _batch(rows: Iterator[PackageDownloads]) -> list[PackageDownloads]:
    batch = []
    weight = 0
    for row in islice(rows, BATCH_ROWS):
        batch.append(row)
        weight += sum(map(_weight, row.breakdowns.values()))
        if weight >= MAX_BATCH_WEIGHT:
            break
    return batch


def _weight(counts: Counts) -> int:
    return len(counts) * CATEGORY_WEIGHT + sum(map(len, counts))


# Parquet


@contextmanager
def _parquet_writer(file: BinaryIO, breakdowns: Sequence[str]) -> Iterator[Write]:
    # It takes longer to import than the rest of a command.
    import pyarrow as pa  # noqa: PLC0415 - slow to import
    from pyarrow import parquet  # noqa: PLC0415 - slow to import

    counts = pa.map_(pa.string(), pa.int64())
    schema = pa.schema(
        [
            pa.field("package", pa.string(), nullable=False),
            pa.field("with_mirrors", pa.int64(), nullable=False),
            pa.field("without_mirrors", pa.int64(), nullable=False),
            *(pa.field(column, counts, nullable=False) for column in breakdowns),
        ]
    )
    group: list[Any] = []

    def write_group() -> None:
        table = pa.Table.from_batches(group, schema)
        group.clear()
        out.write_table(table)

    def write(rows: Rows) -> None:
        arrays = [
            *list(zip(*rows, strict=True))[:3],
            *([sorted(row.breakdowns[column].items()) for row in rows] for column in breakdowns),
        ]
        columns = [pa.array(one, field.type) for one, field in zip(arrays, schema, strict=True)]
        group.append(pa.record_batch(columns, schema=schema))
        if sum(batch.num_rows for batch in group) >= ROW_GROUP_ROWS:
            write_group()

    with parquet.ParquetWriter(file, schema, compression="zstd") as out:
        yield write
        if group:
            write_group()


def _read_parquet(file: BinaryIO) -> Iterator[PackageDownloads]:
    import pyarrow as pa  # noqa: PLC0415 - slow to import
    from pyarrow import parquet  # noqa: PLC0415 - slow to import

    # What a footer claims is not taken at its word.
    limits = {"thrift_string_size_limit": 2**20, "thrift_container_size_limit": 2**20}
    try:
        with parquet.ParquetFile(file, **limits) as source:
            columns = _parquet_columns(source.schema_arrow, pa)
            _check_footer(source.metadata)
            texts = _texts(source.schema, columns)
        # A text that many rows have stays one in memory, until it is known to be short.
        source = parquet.ParquetFile(
            file, read_dictionary=texts, buffer_size=2**20, pre_buffer=False, **limits
        )
        row = 0
        for batch in _parquet_batches(source, columns):
            if batch.nbytes > MAX_BATCH_BYTES:
                raise MalformedDumpError(
                    f"the {batch.num_rows:,} rows after row {row} have more than "
                    f"{MAX_BATCH_BYTES:,} bytes"
                )
            values = [_values(batch.column(name), pa) for name in columns]
            for package, with_mirrors, without_mirrors, *counts in zip(*values, strict=True):
                row += 1
                breakdowns = dict(zip(columns[3:], counts, strict=True))
                yield _row(f"row {row}", package, with_mirrors, without_mirrors, breakdowns)
    except (pa.ArrowException, OSError, ValueError) as error:
        # What Arrow says may have lines of its own, and a dump of its memory.
        raise MalformedDumpError(f"no Parquet that can be read: {first_line(error)}") from error


def _parquet_batches(source: Any, columns: list[str]) -> Iterator[Any]:
    # Group by group: each has dictionaries of its own, which Arrow does not merge in maps.
    for group in range(source.num_row_groups):
        yield from source.iter_batches(
            BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
        )


def _parquet_columns(schema: Any, pa: Any) -> list[str]:
    """Those to read, checked by their types: what is there beside them may have any."""
    for name in TOTAL_COLUMNS:
        if name not in schema.names:
            raise MalformedDumpError(f"there is no column {name}")
    columns = [*TOTAL_COLUMNS, *(name for name in BREAKDOWN_COLUMNS if name in schema.names)]
    for name in columns:
        if schema.names.count(name) > 1:
            raise MalformedDumpError(f"there are several columns {name}")
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
    if metadata.num_rows > MAX_ROWS:
        raise MalformedDumpError(f"there are more than {MAX_ROWS:,} rows")
    unpacked = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for position in range(group.num_columns):
            chunk = group.column(position)
            unpacked += chunk.total_uncompressed_size
            if chunk.total_uncompressed_size > MAX_CHUNK_BYTES:
                raise MalformedDumpError(
                    f"a row group has more than {MAX_CHUNK_BYTES:,} bytes of {chunk.path_in_schema}"
                )
            if chunk.num_values > MAX_BATCH_CATEGORIES * (1 + group.num_rows // BATCH_ROWS):
                raise MalformedDumpError("a row has more categories than it may")
    if unpacked > MAX_UNPACKED_BYTES:
        raise MalformedDumpError(f"there are more than {MAX_UNPACKED_BYTES:,} bytes in it")


def _texts(schema: Any, columns: list[str]) -> list[str]:
    """The paths of the packages, and of the categories: in a map its keys. Read as dictionaries
    they can't be in the encodings of differences, which make long texts of few bytes.
    """
    paths = (schema.column(number) for number in range(len(schema)))
    return [
        one.path
        for one in paths
        if one.physical_type == "BYTE_ARRAY" and one.path.partition(".")[0] in columns
    ]


def _values(array: Any, pa: Any) -> list[Any]:
    """Of a column, with maps as objects."""
    if pa.types.is_dictionary(array.type):
        return _short(array)
    if not pa.types.is_map(array.type):
        values: list[Any] = array.to_pylist()
        return values
    # Key by key in one list, which takes a fraction of the time of a list for each row.
    offsets = array.offsets.to_pylist()
    keys, counts = _short(array.keys), array.items.to_pylist()
    present = array.is_valid().to_pylist()
    return [
        _unique(keys[start:end], counts[start:end]) if is_there else None
        for start, end, is_there in zip(offsets, offsets[1:], present, strict=False)
    ]


def _short(array: Any) -> list[Any]:
    """Texts, once it is known how much they are: each takes its whole length from here on."""
    import pyarrow.compute as pc  # noqa: PLC0415 - slow to import

    lengths = pc.binary_length(array.dictionary).take(array.indices)
    total = pc.sum(lengths).as_py() or 0
    if len(array) > MAX_BATCH_CATEGORIES or total > MAX_BATCH_BYTES:
        raise MalformedDumpError(
            f"{BATCH_ROWS:,} rows have {len(array):,} texts of {total:,} bytes in one column, "
            f"where {MAX_BATCH_CATEGORIES:,} of {MAX_BATCH_BYTES:,} are the most"
        )
    values: list[Any] = array.dictionary_decode().to_pylist()
    return values


def _unique(keys: list[str], counts: list[int]) -> dict[str, int]:
    merged = dict(zip(keys, counts, strict=True))
    if len(merged) < len(keys):
        raise MalformedDumpError("a row has a category twice")
    return merged


# Text


def _write_ndjson(file: gzip.GzipFile, breakdowns: Sequence[str], rows: Rows) -> None:
    columns = (*TOTAL_COLUMNS, *breakdowns)
    for row in rows:
        counts = (_in_order(row.breakdowns[column]) for column in breakdowns)
        told = dict(zip(columns, (*row[:3], *counts), strict=True))
        file.write(orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))


def _write_csv(file: gzip.GzipFile, breakdowns: Sequence[str], rows: Rows) -> None:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    for row in rows:
        counts = (_in_order(row.breakdowns[column]) for column in breakdowns)
        lines.writerow([*row[:3], *(orjson.dumps(one).decode() for one in counts)])
    file.write(text.getvalue().encode())


def _in_order(counts: Counts) -> Counts:
    return dict(sorted(counts.items()))


def _read_ndjson(file: BinaryIO) -> Iterator[PackageDownloads]:
    for number, line in _lines(file):
        where = f"line {number}"
        told = _json(where, line)
        if not isinstance(told, dict):
            raise MalformedDumpError(f"{where} is no JSON object")
        breakdowns = {column: told[column] for column in BREAKDOWN_COLUMNS if column in told}
        yield _row(
            where,
            told.get("package"),
            told.get("with_mirrors"),
            told.get("without_mirrors"),
            breakdowns,
        )


def _read_csv(file: BinaryIO) -> Iterator[PackageDownloads]:
    number = size = 0

    def lines() -> Iterator[str]:
        nonlocal number, size
        for number, line in _lines(file):
            # What is quoted goes on from line to line.
            size += len(line)
            if size > MAX_LINE_BYTES:
                raise MalformedDumpError(
                    f"the row until line {number} has more than {MAX_LINE_BYTES:,} bytes"
                )
            yield line.decode()

    # Of all of this process, which reads CSV nowhere else.
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
            where = f"line {number}"
            if len(row) != len(head):
                raise MalformedDumpError(f"{where} has {len(row)} of {len(head)} columns")
            told = dict(zip(head, row, strict=True))
            breakdowns = {
                column: _json(where, told[column].encode())
                for column in BREAKDOWN_COLUMNS
                if told.get(column)
            }
            yield _row(
                where,
                told["package"],
                _integer(told["with_mirrors"]),
                _integer(told["without_mirrors"]),
                breakdowns,
            )
    except (csv.Error, UnicodeDecodeError) as error:
        raise MalformedDumpError(f"line {number} is no CSV: {first_line(error)}") from error


def _integer(text: str) -> int | None:
    # No number of downloads is longer, and longer ones take long to read.
    return int(text) if len(text) <= 20 and text.isascii() and text.isdecimal() else None


def _json(where: str, text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedDumpError(f"{where} is no JSON: {first_line(error)}") from None


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a text, packed or not, with their numbers. None is longer than it may."""
    is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    text = gzip.GzipFile(fileobj=file) if is_packed else file
    number = size = 0
    try:
        while line := text.readline(MAX_LINE_BYTES + 1):
            number += 1
            size += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise MalformedDumpError(f"line {number} has more than {MAX_LINE_BYTES:,} bytes")
            if size > MAX_UNPACKED_BYTES:
                raise MalformedDumpError(f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
            yield number, line
    except (EOFError, OSError, zlib.error) as error:
        told = first_line(error)
        raise MalformedDumpError(f"line {number + 1} can't be unpacked: {told}") from error


def _row(
    where: str,
    package: object,
    with_mirrors: object,
    without_mirrors: object,
    breakdowns: dict[str, Any],
) -> PackageDownloads:
    """A row whose values are of the right kind; whether the counts are, the pipeline judges. A
    breakdown that is null is none.
    """
    if type(package) is not str:
        raise MalformedDumpError(f"{where} has no package")
    if len(package) > MAX_PACKAGE_CHARACTERS:
        raise MalformedDumpError(
            f"{where} has a package with a name of more than {MAX_PACKAGE_CHARACTERS:,} characters"
        )
    for name, count in (("with_mirrors", with_mirrors), ("without_mirrors", without_mirrors)):
        if type(count) is not int:
            raise MalformedDumpError(f"{where} should have an integer for {name}")
    breakdowns = {column: counts for column, counts in breakdowns.items() if counts is not None}
    for column in REQUIRED_COLUMNS:
        if column not in breakdowns:
            raise MalformedDumpError(f"{where} should have an object for {column}")
    for column, counts in breakdowns.items():
        if counts is TOO_MANY:
            continue
        _check_categories(where, column, counts)
        if _weight(counts) > MAX_BREAKDOWN_WEIGHT:
            breakdowns[column] = TOO_MANY
    return PackageDownloads(
        package, cast("int", with_mirrors), cast("int", without_mirrors), breakdowns
    )


def _check_categories(where: str, column: str, counts: object) -> None:
    if type(counts) is not dict:
        raise MalformedDumpError(f"{where} should have an object for {column}")
    for category in counts:
        if not (category and category.isprintable()):
            raise MalformedDumpError(f"{where} has a category for {column} that is none")


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


_READERS = {
    DumpFormat.PARQUET: _read_parquet,
    DumpFormat.CSV: _read_csv,
    DumpFormat.NDJSON: _read_ndjson,
}
