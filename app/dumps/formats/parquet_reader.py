"""Converts the Parquet file on standard input to lines of JSON, in a process of its own.

A Parquet file may contain wrong sizes, by which libraries allocate memory. So the process has a
limit of CPU time, and a limit of memory, which only Linux enforces. Each line is a row, or a text
with the reason why the file can't be read further.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from app.domain.breakdowns import BREAKDOWN_COLUMNS
from app.dumps.formats.limits import BATCH_ROWS, MAX_READER_BYTES, MAX_READER_SECONDS
from app.dumps.formats.rows import first_line
from app.dumps.listing import DAY_COLUMN, MONTH_COLUMN, TOTAL_COLUMNS
from app.errors import MalformedDumpError

DATE_COLUMNS = (DAY_COLUMN, MONTH_COLUMN)

TEXTS = {
    pa.null(),
    *(pa.string(), pa.large_string(), pa.string_view()),
    *(pa.binary(), pa.large_binary(), pa.binary_view()),
}
LISTS = (
    *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    *(pa.types.is_list_view, pa.types.is_large_list_view),
)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_READER_BYTES, MAX_READER_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_READER_SECONDS, MAX_READER_SECONDS))
    for line in json_lines(sys.stdin.buffer):
        sys.stdout.buffer.write(line)


def json_lines(file: BinaryIO) -> Iterator[bytes]:
    try:
        for row in _rows(file):
            yield orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except MalformedDumpError as error:
        yield orjson.dumps(str(error))
    except MemoryError:
        mebibytes = MAX_READER_BYTES // 2**20
        yield orjson.dumps(f"reading the file takes more than {mebibytes:,} MiB of memory")
    except (pa.ArrowException, OSError, ValueError, ArithmeticError) as error:
        # Arrow's message may have several lines and contain a dump of memory.
        yield orjson.dumps(f"not readable as Parquet: {first_line(error)}")


def _rows(file: BinaryIO) -> Iterator[dict[str, Any]]:
    source = parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
    columns = _columns(source.schema_arrow)
    # Read one row group at a time, because Arrow does not merge their dictionaries within maps.
    for group in range(source.num_row_groups):
        for batch in source.iter_batches(
            BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
        ):
            for row in zip(*(_values(batch.column(name), name) for name in columns), strict=True):
                yield dict(zip(columns, row, strict=True))


def _columns(schema: Any) -> list[str]:
    """Check the types of the columns that are read, and return the names of these columns."""
    optional = (*DATE_COLUMNS, *BREAKDOWN_COLUMNS)
    columns = [*TOTAL_COLUMNS, *(name for name in optional if name in schema.names)]
    for name in columns:
        if (count := schema.names.count(name)) != 1:
            raise MalformedDumpError(f"there should be one column {name}, and there are {count}")
        kind = schema.field(name).type
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        if name == "package":
            is_right, wanted = _is_text(kind), "texts"
        elif name in TOTAL_COLUMNS:
            is_right, wanted = _is_number(kind), "integers"
        else:
            is_right = name in DATE_COLUMNS or _is_text(kind) or bool(_pair_types(kind))
            wanted = "maps of texts to integers"
        if not is_right:
            raise MalformedDumpError(f"column {name} should hold {wanted}, and holds {kind!s:.100}")
    return columns


def _is_text(kind: Any) -> bool:
    return (kind.value_type if pa.types.is_dictionary(kind) else kind) in TEXTS


def _is_number(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    # Some programs write sums, and integers in columns with nulls, as floats or decimals.
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(check(kind) for check in checks)


def _pair_types(kind: Any) -> list[Any]:
    """Return the fields of a breakdown's type: the key and the value of a map or of a list of
    pairs, or one field per category of a struct. Return an empty list for other types.
    """
    if pa.types.is_struct(kind):
        is_right = all(_is_number(one.type) or pa.types.is_null(one.type) for one in kind)
        return list(kind) if is_right else []
    fields: list[Any] = []
    if pa.types.is_map(kind):
        fields = [kind.key_field, kind.item_field]
    elif any(check(kind) for check in LISTS) and pa.types.is_struct(kind.value_type):
        fields = list(kind.value_type)
    is_right = len(fields) == 2 and _is_text(fields[0].type) and _is_number(fields[1].type)
    return fields if is_right else []


def _values(array: Any, name: str) -> list[Any]:
    """Return the values of a column, converted for JSON."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if name in DATE_COLUMNS or _is_text(kind):
        return _cast(array, pa.large_string())
    if name in TOTAL_COLUMNS:
        return _cast(array, pa.int64())
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        counts = zip(*(_cast(one, pa.int64()) for one in array.flatten()), strict=True)
        return [
            [[name, count] for name, count in zip(names, row, strict=True) if count is not None]
            if is_present
            else None
            for row, is_present in zip(counts, array.is_valid().to_pylist(), strict=True)
        ]
    if pa.types.is_map(kind):
        array = array.cast(pa.list_(pa.struct(_pair_types(kind))))
    keys, downloads = array.flatten().flatten()
    pairs = zip(_cast(keys, pa.large_string()), _cast(downloads, pa.int64()), strict=True)
    lengths = pc.list_value_length(array).to_pylist()
    return [None if length is None else [next(pairs) for _ in range(length)] for length in lengths]


def _cast(array: Any, kind: Any) -> list[Any]:
    """Return the values, cast to this type if all of them fit. Otherwise return them unchanged, so
    that the wrong value is reported with its row.
    """
    with suppress(pa.ArrowInvalid):
        array = array.cast(kind)
    values: list[Any] = array.to_pylist()
    return values


if __name__ == "__main__":
    main()
