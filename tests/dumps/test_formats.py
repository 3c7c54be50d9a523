"""What is written is read back, and what is none of it is told in one line."""

import gzip
import io
from collections.abc import Sequence
from contextlib import suppress

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from pyarrow import parquet

from app.downloads import PackageDownloads
from app.dumps import formats
from app.dumps.listing import DumpFormat
from app.errors import MalformedDumpError
from tests.days import downloads
from tests.dumps.rows import DAYS

FORMATS = list(DumpFormat)


def written(dump_format: DumpFormat, *batches: Sequence[PackageDownloads]) -> bytes:
    file = io.BytesIO()
    with formats.writer(file, dump_format, list(batches[0][0].breakdowns)) as write:
        for rows in batches:
            write(rows)
    return file.getvalue()


def read(dump_format: DumpFormat, content: bytes) -> list[PackageDownloads]:
    return [row for rows in formats.read(io.BytesIO(content), dump_format) for row in rows]


@pytest.mark.parametrize("dump_format", FORMATS)
@given(day=DAYS)
def test_what_is_written_is_read(dump_format: DumpFormat, day: Sequence[PackageDownloads]) -> None:
    half = len(day) // 2
    content = written(dump_format, *(part for part in (day[:half], day[half:]) if part))
    assert read(dump_format, content) == day
    assert content == written(dump_format, *(part for part in (day[:half], day[half:]) if part))


@pytest.mark.parametrize("dump_format", FORMATS)
def test_many_rows_come_in_bounded_batches(dump_format: DumpFormat) -> None:
    rows = [downloads(f"package-{number:06}", number) for number in range(130_000)]
    content = written(
        dump_format, *(rows[start : start + 1000] for start in range(0, 130_000, 1000))
    )
    batches = list(formats.read(io.BytesIO(content), dump_format))
    assert {len(batch) for batch in batches[:-1]} == {formats.BATCH_ROWS}
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
        (b"not json\n", "line 1 is no JSON"),
        (GOOD + b'{"package":"b', "line 2 is no JSON"),
        (GOOD + b"\n", "line 2 is no JSON"),
        (b"[1]\n", "line 1 is no JSON object"),
        (b"{}\n", "line 1 has no package"),
        (_changed(package=1), "line 1 has no package"),
        (_changed(with_mirrors="1"), "line 1 should have an integer for with_mirrors"),
        (_changed(with_mirrors=1.0), "line 1 should have an integer for with_mirrors"),
        (_changed(without_mirrors=True), "line 1 should have an integer for without_mirrors"),
        (_changed(system=None), "line 1 should have an object for system"),
        (GOOD + _changed(ci={"null": 1}), "a has other breakdowns than the first row"),
        (_changed(ci={"null": 1}) + GOOD, "a has other breakdowns than the first row"),
        (_changed(system=[1]), "line 1 should have an object for system"),
        (_changed(system={"": 1}), "line 1 has a category for system that is none"),
        (_changed(system={"a\0": 1}), "line 1 has a category for system that is none"),
        (_changed(system={"a" * 201: 1}), "line 1 has a category for system that is none"),
        (
            _changed(system={str(number): 1 for number in range(1_001)}),
            "line 1 has more categories for system than it may",
        ),
        (b'"' + b"a" * 2**20, "line 1 has more than 1,048,576 bytes"),
        (gzip.compress(GOOD)[:-4], "line 2 can't be unpacked"),
        (gzip.compress(GOOD * 99)[:40] + b"rubbish" * 9, "can't be unpacked"),
        (gzip.compress(bytes(2**26)), "line 1 has more than 1,048,576 bytes"),
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
        (HEAD + b"a,1,1,{,{}\n", "line 2 is no JSON"),
        (HEAD + b'"a,1,1,{},{}\n', "line 2 is no CSV"),
        (HEAD + b"\xff\n", "line 2 is no CSV"),
    ],
    ids=_told,
)
def test_csv_that_is_none(content: bytes, told: str) -> None:
    with pytest.raises(MalformedDumpError, match=told) as caught:
        read(DumpFormat.CSV, content)
    assert "\n" not in str(caught.value)


MAP = pa.map_(pa.string(), pa.int64())


def _parquet(**columns: object) -> bytes:
    """One good row with these columns in place of its own; None leaves one out."""
    arrays = {
        "package": pa.array(["a"]),
        "with_mirrors": pa.array([1]),
        "without_mirrors": pa.array([1]),
        "python_minor": pa.array([[("3.9", 1)]], MAP),
        "system": pa.array([[("linux", 1)]], MAP),
    } | columns
    file = io.BytesIO()
    parquet.write_table(
        pa.table({name: one for name, one in arrays.items() if one is not None}), file
    )
    return file.getvalue()


def test_parquet_with_more_columns_is_read() -> None:
    content = _parquet(more=pa.array([{"x": 1}]), ci=pa.array([None], MAP))
    assert read(DumpFormat.PARQUET, content) == [downloads("a", {"3.9": 1})]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no Parquet that can be read"),
        (b"PAR1" + b"rubbish" * 99 + b"PAR1", "no Parquet that can be read"),
        (_parquet()[:-9], "no Parquet that can be read"),
        (_parquet(package=None), "there is no column package"),
        (_parquet(package=pa.array([1])), "column package should hold strings, and holds int64"),
        (_parquet(package=pa.array([None], pa.string())), "row 1 has no package"),
        (_parquet(with_mirrors=pa.array([1.5])), "column with_mirrors should hold integers"),
        (_parquet(with_mirrors=pa.array([None], pa.int64())), "row 1 should have an integer"),
        (_parquet(system=pa.array(["{}"])), "column system should hold maps of strings"),
        (_parquet(system=pa.array([[("a", 1), ("a", 2)]], MAP)), "a category twice"),
        (_parquet(system=pa.array([None], MAP)), "row 1 should have an object for system"),
        (_parquet(system=pa.array([[("\0", 1)]], MAP)), "row 1 has a category for system"),
    ],
    ids=_told,
)
def test_parquet_that_is_none(content: bytes, told: str) -> None:
    with pytest.raises(MalformedDumpError, match=told) as caught:
        read(DumpFormat.PARQUET, content)
    assert "\n" not in str(caught.value)


def test_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [downloads(f"p{number}", 1) for number in range(11)]
    contents = {one: written(one, rows) for one in FORMATS}
    monkeypatch.setattr(formats, "MAX_ROWS", 10)
    for dump_format, content in contents.items():
        with pytest.raises(MalformedDumpError, match="more than 10 rows"):
            read(dump_format, content)


@pytest.mark.parametrize("dump_format", FORMATS)
def test_a_file_that_unpacks_to_too_much(
    dump_format: DumpFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = written(dump_format, [downloads(f"p{number}", 1) for number in range(2000)])
    monkeypatch.setattr(formats, "MAX_UNPACKED_BYTES", len(content))
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
    monkeypatch.setattr(formats, "MAX_BATCH_BYTES", 2**20)
    with pytest.raises(MalformedDumpError, match="the 2,000 rows after row 0 have more than"):
        read(DumpFormat.PARQUET, content)
    monkeypatch.setattr(formats, "MAX_CHUNK_BYTES", 1000)
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
