"""What is written is read back, and what is none of it is told in one line."""

import gzip
import io
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from pyarrow import parquet

from app.domain.downloads import PackageDownloads
from app.dumps import formats
from app.dumps.formats import limits
from app.dumps.formats.rows import TOO_MANY
from app.dumps.listing import DumpFormat
from app.errors import MalformedDumpError
from tests.days import downloads, fault_of
from tests.dumps.rows import DAYS
from tests.waiting import PATIENCE_SECONDS

FORMATS = list(DumpFormat)


def written(dump_format: DumpFormat, *batches: Sequence[PackageDownloads]) -> bytes:
    file = io.BytesIO()
    with formats.writer(file, dump_format, list(batches[0][0].breakdowns)) as write:
        for rows in batches:
            write(rows)
    return file.getvalue()


def read(dump_format: DumpFormat, content: bytes) -> list[PackageDownloads]:
    return [row for rows in formats.read(io.BytesIO(content), dump_format) for row in rows]


@given(day=DAYS)
def test_what_is_written_is_read(day: Sequence[PackageDownloads]) -> None:
    half = len(day) // 2
    parts = [part for part in (day[:half], day[half:]) if part]
    for dump_format in FORMATS:
        content = written(dump_format, *parts)
        assert read(dump_format, content) == day
        assert content == written(dump_format, *parts)


@pytest.mark.parametrize("dump_format", FORMATS)
def test_many_rows_come_in_bounded_batches(dump_format: DumpFormat) -> None:
    count = 10 * limits.BATCH_ROWS + 1_000
    rows = [downloads(f"package-{number:06}", number) for number in range(count)]
    content = written(dump_format, *(rows[start : start + 1000] for start in range(0, count, 1000)))
    batches = list(formats.read(io.BytesIO(content), dump_format))
    assert {len(batch) for batch in batches[:-1]} == {limits.BATCH_ROWS}
    assert [row for batch in batches for row in batch] == rows


def test_others_read_the_same() -> None:
    """By the reference's own way, and by eye."""
    rows = [
        downloads("a", {"3.12": 2, "3.9": 1}, {"linux": 3}, mirrors=4),
        downloads("b", 0, mirrors=1),
    ]
    table = parquet.read_table(io.BytesIO(written(DumpFormat.PARQUET, rows)))
    assert table.to_pylist() == [
        {
            "package": "a",
            "with_mirrors": 7,
            "without_mirrors": 3,
            "python_minor": [("3.12", 2), ("3.9", 1)],
            "system": [("linux", 3)],
        },
        {
            "package": "b",
            "with_mirrors": 1,
            "without_mirrors": 0,
            "python_minor": [],
            "system": [],
        },
    ]
    assert gzip.decompress(written(DumpFormat.NDJSON, rows)).decode() == (
        '{"package":"a","with_mirrors":7,"without_mirrors":3,'
        '"python_minor":{"3.12":2,"3.9":1},"system":{"linux":3}}\n'
        '{"package":"b","with_mirrors":1,"without_mirrors":0,"python_minor":{},"system":{}}\n'
    )
    assert gzip.decompress(written(DumpFormat.CSV, rows)).decode() == (
        "package,with_mirrors,without_mirrors,python_minor,system\n"
        'a,7,3,"{""3.12"":2,""3.9"":1}","{""linux"":3}"\n'
        "b,1,0,{},{}\n"
    )


def _told(value: object) -> str:
    """What names a case: its content may be long, or another one in every run."""
    return value if isinstance(value, str) else ""


GOOD = (
    b'{"package":"a","with_mirrors":1,"without_mirrors":1,'
    b'"python_minor":{"3.9":1},"system":{"linux":1}}\n'
)


def _changed(**values: object) -> bytes:
    return orjson.dumps(orjson.loads(GOOD) | values) + b"\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not json\n", "line 1 is not valid JSON"),
        (GOOD + b'{"package":"b', "line 2 is not valid JSON"),
        (GOOD + b"\n", "line 2 is not valid JSON"),
        (b"[1]\n", "line 1 is not a JSON object"),
        (b"{}\n", "line 1 has no package"),
        (_changed(package=1), "line 1 has no package"),
        (_changed(with_mirrors="1"), "line 1 should have an integer for with_mirrors"),
        (_changed(with_mirrors=1.0), "line 1 should have an integer for with_mirrors"),
        (_changed(without_mirrors=True), "line 1 should have an integer for without_mirrors"),
        (_changed(system=None), "line 1 should have an object for system"),
        (GOOD + _changed(ci={"null": 1}), "a has other breakdowns than the first row"),
        (_changed(ci={"null": 1}) + GOOD, "a has other breakdowns than the first row"),
        (_changed(system=[1]), "line 1 should have an object for system"),
        (_changed(system={"": 1}), "line 1 has an invalid category for system"),
        (_changed(system={"a\0": 1}), "line 1 has an invalid category for system"),
        (_changed(package="a" * 1_001), "line 1 has a package with a name of more than 1,000"),
        (b'"' + b"a" * 2**22, "line 1 has more than 4,194,304 bytes"),
        (gzip.compress(GOOD)[:-4], "line 2 can't be unpacked"),
        (gzip.compress(GOOD * 99)[:40] + b"rubbish" * 9, "can't be unpacked"),
        (gzip.compress(bytes(2**26)), "line 1 has more than 4,194,304 bytes"),
    ],
    ids=_told,
)
def test_ndjson_that_is_none(content: bytes, told: str) -> None:
    with pytest.raises(MalformedDumpError, match=told) as caught:
        read(DumpFormat.NDJSON, content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


HEAD = b"package,with_mirrors,without_mirrors,python_minor,system\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the first line should name the column package"),
        (b"name,count\n", "the first line should name the column package"),
        (b"package,with_mirrors,with_mirrors\n", "should name the column with_mirrors once"),
        (HEAD + b"a,1\n", "line 2 has 2 of 5 columns"),
        (HEAD + b"a,x,1,{},{}\n", "line 2 should have an integer for with_mirrors"),
        (HEAD + b"a,-1,1,{},{}\n", "line 2 should have an integer for with_mirrors"),
        (HEAD + b"a," + b"9" * 5000 + b",1,{},{}\n", "should have an integer for with_mirrors"),
        (HEAD + b"a,1,1,3.9,{}\n", "line 2 should have an object for python_minor"),
        (HEAD + b"a,1,1,{,{}\n", "line 2 is not valid JSON"),
        (HEAD + b'"a,1,1,{},{}\n', "line 2 is not valid CSV"),
        (HEAD + b"\xff\n", "line 2 is not valid CSV"),
        (HEAD + b'"' + b"a\n" * 2**21, "the row until line 2097153 has more than 4,194,304 bytes"),
    ],
    ids=_told,
)
def test_csv_that_is_none(content: bytes, told: str) -> None:
    with pytest.raises(MalformedDumpError, match=told) as caught:
        read(DumpFormat.CSV, content)
    assert "\n" not in str(caught.value)


MAP = pa.map_(pa.string(), pa.int64())


_ROW: dict[str, object] = {
    "package": pa.array(["a"]),
    "with_mirrors": pa.array([1]),
    "without_mirrors": pa.array([1]),
    "python_minor": pa.array([[("3.9", 1)]], MAP),
    "system": pa.array([[("linux", 1)]], MAP),
}


def _in_parquet(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def _parquet(**columns: object) -> bytes:
    """One good row with these columns in place of its own; None leaves one out."""
    arrays = _ROW | columns
    return _in_parquet(pa.table({name: one for name, one in arrays.items() if one is not None}))


def test_parquet_with_more_columns_is_read() -> None:
    content = _parquet(more=pa.array([{"x": 1}]), ci=pa.array([None], MAP))
    assert read(DumpFormat.PARQUET, content) == [downloads("a", {"3.9": 1})]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not readable as Parquet"),
        (b"PAR1" + b"rubbish" * 99 + b"PAR1", "not readable as Parquet"),
        (_parquet()[:-9], "not readable as Parquet"),
        (_parquet(package=None), "should be one column package, and there are 0"),
        (_parquet(package=pa.array([1])), "column package should hold strings, and holds int64"),
        (_parquet(package=pa.array([None], pa.string())), "row 1 has no package"),
        (_parquet(with_mirrors=pa.array([1.5])), "column with_mirrors should hold integers"),
        (_parquet(with_mirrors=pa.array([None], pa.int64())), "row 1 should have an integer"),
        (_parquet(system=pa.array(["{}"])), "column system should hold maps of strings"),
        (_parquet(system=pa.array([[("a", 1), ("a", 2)]], MAP)), "a category twice"),
        (_parquet(system=pa.array([None], MAP)), "row 1 should have an object for system"),
        (_parquet(system=pa.array([[("\0", 1)]], MAP)), "row 1 has an invalid category for system"),
    ],
    ids=_told,
)
def test_parquet_that_is_none(content: bytes, told: str) -> None:
    with pytest.raises(MalformedDumpError, match=told) as caught:
        read(DumpFormat.PARQUET, content)
    assert "\n" not in str(caught.value)


FORGED = {f"{number % 10}.{number:0250}": 1 for number in range(500)} | {
    f"3.{number}": 1 for number in range(1_001)
}
"""What BigQuery's query takes for versions of Python, and so what may be written."""


@pytest.mark.parametrize("dump_format", FORMATS)
def test_made_up_categories_are_read_as_they_are_written(dump_format: DumpFormat) -> None:
    rows = [downloads("a", FORGED), downloads("b", 1)]
    assert read(dump_format, written(dump_format, rows)) == rows


@pytest.mark.parametrize("dump_format", FORMATS)
def test_a_row_with_too_many_categories_is_none_that_the_pipeline_takes(
    dump_format: DumpFormat,
) -> None:
    many = {f"3.{number}": 1 for number in range(20_000)}
    rows = [downloads("a", many), downloads("b", {f"3.{'9' * 1_100_000}": 1}), downloads("c", 1)]
    *too_many, right = read(dump_format, written(dump_format, rows))
    assert right == rows[2]
    for row in too_many:
        assert row.breakdowns["python_minor"] is TOO_MANY
        assert fault_of(row)


PEAK = """
import resource, sys
from pathlib import Path
import pyarrow.parquet
from app.dumps import formats
from app.dumps.listing import DumpFormat
from app.errors import MalformedDumpError
from app.ingest import pipeline

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with Path(sys.argv[1]).open("rb") as file:
        for rows in formats.read(file, DumpFormat.of(sys.argv[1])):
            pass
except MalformedDumpError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def _large(kind: str) -> tuple[str, bytes]:
    """Much in a small file, by what it repeats."""
    long = "a" * 500_000
    if kind == "a dictionary of packages":
        return "x.parquet", _rows_of(1_000, package=_repeated(pa.array([long]), 1_000))
    if kind == "a dictionary of categories":
        return "x.parquet", _rows_of(1_000, system=_repeated(pa.array([[(long, 1)]], MAP), 1_000))
    if kind == "maps of much":
        counts = [(str(number), 1) for number in range(20_000)]
        return "x.parquet", _rows_of(400, system=_repeated(pa.array([counts], MAP), 400))
    if kind == "long names":
        return "x.ndjson.gz", gzip.compress(_changed(package=long * 2) * 600, 1)
    if kind == "many categories":
        counts_of_line = {str(number): 1 for number in range(9_000)}
        return "x.ndjson.gz", gzip.compress(_changed(system=counts_of_line) * 500, 1)
    return "x.csv.gz", gzip.compress(HEAD + b'"' + (b"a" * 2**19 + b"\n") * 1_000, 1)


def _repeated(values: pa.Array, count: int) -> pa.Array:
    return values.take(pa.array([0] * count))


def _rows_of(count: int, **columns: object) -> bytes:
    arrays = {
        "package": pa.array([f"p{number}" for number in range(count)]),
        "with_mirrors": pa.array([1] * count),
        "without_mirrors": pa.array([1] * count),
        "python_minor": pa.array([[("3.9", 1)]] * count, MAP),
        "system": pa.array([[("linux", 1)]] * count, MAP),
    } | columns
    return _in_parquet(pa.table(arrays), compression="zstd")


@pytest.mark.parametrize(
    "options",
    [
        {"row_group_size": 700},
        {"use_dictionary": False},
        {"dictionary_pagesize_limit": 1_000, "data_page_size": 100, "write_batch_size": 10},
        {"data_page_version": "2.0", "compression": "none"},
        {"store_schema": False},
    ],
)
def test_parquet_is_read_however_it_is_encoded(options: dict[str, object]) -> None:
    rows = [
        downloads(f"p{number}", {f"3.{number % 50}": number + 1, "null": 1})
        for number in range(5_000)
    ]
    for text in (pa.string(), pa.large_string()):
        table = parquet.read_table(io.BytesIO(written(DumpFormat.PARQUET, rows)))
        table = table.set_column(0, "package", table["package"].cast(text))
        assert read(DumpFormat.PARQUET, _in_parquet(table, **options)) == rows


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_parquet_whose_texts_could_become_any_length_is_refused(encoding: str) -> None:
    """No writer does that unless it is told to."""
    content = _in_parquet(
        pa.table(_ROW),
        use_dictionary=False,
        column_encoding={"package": encoding},
    )
    with pytest.raises(MalformedDumpError, match="Not yet implemented"):
        read(DumpFormat.PARQUET, content)


@pytest.mark.parametrize(
    "kind",
    [
        "a dictionary of packages",
        "a dictionary of categories",
        "maps of much",
        "long names",
        "many categories",
        "a record of many lines",
    ],
)
def test_small_files_take_little_memory(kind: str, tmp_path: Path) -> None:
    """However much they unpack to."""
    name, content = _large(kind)
    (tmp_path / name).write_bytes(content)
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / name)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert int(result.stdout.splitlines()[-1]) < 200, result.stdout


def test_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [downloads(f"p{number}", 1) for number in range(11)]
    contents = {one: written(one, rows) for one in FORMATS}
    monkeypatch.setattr(limits, "MAX_ROWS", 10)
    for dump_format, content in contents.items():
        with pytest.raises(MalformedDumpError, match="more than 10 rows"):
            read(dump_format, content)


@pytest.mark.parametrize("dump_format", FORMATS)
def test_a_file_that_unpacks_to_too_much(
    dump_format: DumpFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = written(dump_format, [downloads(f"p{number}", 1) for number in range(2000)])
    monkeypatch.setattr(limits, "MAX_UNPACKED_BYTES", len(content))
    with pytest.raises(MalformedDumpError, match="more than"):
        read(dump_format, content)


def test_parquet_that_unpacks_to_too_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it says of itself, and by what comes of it: a value that is stored once may be that
    of every row.
    """
    names = pa.array(["a" * 1000] * 5_000)
    content = _parquet(
        package=names,
        **{name: pa.array([1] * 5_000) for name in ("with_mirrors", "without_mirrors")},
        **{name: pa.array([[("x", 1)]] * 5_000, MAP) for name in ("python_minor", "system")},
    )
    assert len(read(DumpFormat.PARQUET, content)) == 5_000
    monkeypatch.setattr(limits, "MAX_BATCH_BYTES", 2**20)
    with pytest.raises(MalformedDumpError, match="2,000 rows have 2,000 texts of 2,000,000 bytes"):
        read(DumpFormat.PARQUET, content)
    monkeypatch.setattr(limits, "MAX_CHUNK_BYTES", 1000)
    with pytest.raises(MalformedDumpError, match="row group has more than 1,000 bytes of package"):
        read(DumpFormat.PARQUET, content)


@pytest.mark.parametrize("dump_format", FORMATS)
def test_damage_anywhere_is_no_crash(dump_format: DumpFormat) -> None:
    """Of a byte in any place: what is read has been checked, or the rest was not read."""
    content = written(dump_format, [downloads("a", {"3.9": 1}), downloads("b", 2)])
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        with suppress(MalformedDumpError):
            rows = read(dump_format, bytes(damaged))
            assert all(set(row.breakdowns) == {"python_minor", "system"} for row in rows)
