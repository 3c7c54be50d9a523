"""Content of dumps in each format, and readers of it."""

import io
import tempfile
from collections.abc import Sequence
from datetime import date
from typing import Any

import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet

from app.domain.breakdowns import OPTIONAL_COLUMNS
from app.domain.downloads import DayFigures, PackageDownloads
from app.dumps import formats
from app.dumps.listing import DumpFormat
from app.errors import MalformedDumpError

FORMATS = list(DumpFormat)
DAY = date(2026, 11, 20)


def written(dump_format: DumpFormat, *batches: Sequence[PackageDownloads]) -> bytes:
    file = io.BytesIO()
    figures = DayFigures(
        day=DAY,
        source="given",
        packages=1,
        downloads=1,
        downloads_with_mirrors=1,
        digest="",
        breakdowns=[one for one in batches[0][0].breakdowns if one in OPTIONAL_COLUMNS],
    )
    with formats.writer(file, dump_format, figures) as write:
        for rows in batches:
            write(rows)
    return file.getvalue()


def batches_of(dump_format: DumpFormat, content: bytes) -> list[Sequence[PackageDownloads]]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return list(formats.read(file, dump_format, DAY))


def read(dump_format: DumpFormat, content: bytes) -> list[PackageDownloads]:
    return [row for rows in batches_of(dump_format, content) for row in rows]


def assert_malformed(dump_format: DumpFormat, content: bytes, message: str) -> None:
    with pytest.raises(MalformedDumpError) as caught:
        read(dump_format, content)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


GOOD = (
    b'{"package":"a","with_mirrors":1,"without_mirrors":1,'
    b'"python_minor":{"3.9":1},"system":{"linux":1}}\n'
)
HEAD = b"package,with_mirrors,without_mirrors,python_minor,system\n"
LINE = b'a,1,1,"{""3.9"":1}","{""linux"":1}"\n'


def changed(**values: object) -> bytes:
    return orjson.dumps(orjson.loads(GOOD) | values) + b"\n"


MAP = pa.map_(pa.string(), pa.int64())
ROW: dict[str, Any] = {
    "package": pa.array(["a"]),
    "with_mirrors": pa.array([1]),
    "without_mirrors": pa.array([1]),
    "python_minor": pa.array([[("3.9", 1)]], MAP),
    "system": pa.array([[("linux", 1)]], MAP),
}


def in_parquet(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def parquet_of(**columns: object) -> bytes:
    """Return a file of one row with these columns. None leaves a column out."""
    arrays = ROW | columns
    return in_parquet(pa.table({name: one for name, one in arrays.items() if one is not None}))
