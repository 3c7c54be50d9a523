"""Malformed files, and files that take much memory, are errors of one line."""

import gzip
import subprocess
import sys
from contextlib import suppress
from datetime import date
from pathlib import Path
from signal import SIGKILL
from typing import Any

import orjson
import pyarrow as pa
import pytest

from app.dumps.formats import limits
from app.dumps.listing import MAX_LISTING_BYTES, DumpFormat, parse
from app.errors import MalformedDumpError
from tests.days import downloads
from tests.dumps.file_contents import (
    FORMATS,
    GOOD,
    HEAD,
    LINE,
    MAP,
    assert_malformed,
    changed,
    in_parquet,
    parquet_of,
    read,
    written,
)
from tests.processes import ROOT
from tests.waiting import PATIENCE_SECONDS

# Malformed files


# Contents of files, by parts of the messages that they lead to.
NDJSON = {
    "line 1: not valid JSON:": b"not json\n",
    "line 2: not valid JSON": GOOD + b'{"package":"b',
    "line 3: not a JSON object ([1])": b"\n\n[1]\n",
    "line 1: package should be a name of at most 1,000 characters": b"{}\n",
    "line 1: package should be a name of at most 1,000 characters (1)": changed(package=1),
    "line 1: package should be a name": changed(package="a" * 1_001),
    "line 1, package 'a': with_mirrors should be an integer ('1')": changed(with_mirrors="1"),
    "with_mirrors should be an integer (1.0)": changed(with_mirrors=1.0),
    "without_mirrors should be an integer (True)": changed(without_mirrors=True),
    "are an impossible number of downloads ((1, 2))": changed(without_mirrors=2),
    "line 1, package 'a': day differs from 2026-11-20 ('2026-11-19')": changed(day="2026-11-19"),
    "package 'a': system should be an object of counts": changed(system=None),
    "system should be an object of counts by category ([1])": changed(system=[1]),
    "package 'a': system has an unknown category ('')": changed(system={"": 1}),
    "line 2, package 'b': system has an unknown category ('BeOS')": GOOD
    + changed(package="b", system={"BeOS": 1}),
    "python_minor has an unknown category ('3')": changed(python_minor={"3": 1}),
    "version has an unknown category ('=1+1')": changed(version={"=1+1": 1}),
    "system has a count that is not a positive integer ({'linux': 0})": changed(
        system={"linux": 0, "null": 1}
    ),
    "system has a count that is not a positive integer ({'linux': '1'})": changed(
        system={"linux": "1"}
    ),
    "system does not add up to the downloads ('2 instead of 1')": changed(system={"linux": 2}),
    "version has too many categories (102)": changed(
        version={f"1.{number}": 1 for number in range(102)}
    ),
    "system has a category twice ('linux')": changed(system=[["linux", 1], ["linux", 1]]),
    "line 1: a key appears twice in an object ('linux')": GOOD.replace(
        b'"linux":1', b'"linux":1,"linux":1'
    ),
    "appears twice in an object ('package')": GOOD.replace(
        b'"package"', b'"package": "b", "package"'
    ),
    "line 2, package 'a': the breakdowns differ": GOOD + changed(ci={"null": 1}),
    "line 1: not valid JSON": b'{"a":' + b"[" * 60_000 + b"]" * 60_000 + b"}\n",
    "line 1: more than 131,072": b'"' + b"a" * 2**20,
    "line 2: can't be unpacked": gzip.compress(GOOD)[:-4],
    "can't be unpacked": gzip.compress(GOOD * 99)[:40] + b"rubbish" * 9,
    "line 1: more than 131,072 bytes": gzip.compress(bytes(2**26)),
}


@pytest.mark.parametrize("message", NDJSON)
def test_malformed_ndjson(message: str) -> None:
    assert_malformed(DumpFormat.NDJSON, NDJSON[message], message)


# Contents of files, by parts of the messages that they lead to.
CSV = {
    "there is no header with the names of the columns": b"",
    "line 2: the header should name the column package once": b"\nname,count\n",
    "should name the column with_mirrors once": b"package,with_mirrors,with_mirrors\n",
    "should name the column system once": HEAD.replace(b"\n", b",system\n"),
    "line 2: the row has another number of columns than the header": HEAD + b"a,1\n",
    "line 2, package 'a': with_mirrors should be an integer ('x')": HEAD + b"a,x,1,{},{}\n",
    "with_mirrors should be an integer ('-1')": HEAD + b"a,-1,1,{},{}\n",
    "with_mirrors should be an integer": HEAD + b"a," + b"9" * 5000 + b",1,{},{}\n",
    "package 'a': python_minor should be an object of counts": HEAD + b"a,1,1,3.9,{}\n",
    "line 2, package 'a', python_minor: not valid JSON": HEAD + b"a,1,1,{,{}\n",
    "python_minor: a key appears twice in an object ('3.9')": HEAD
    + LINE.replace(b":1}", b':1,""3.9"":1}'),
    "line 2: not valid CSV": HEAD + b'"a,1,1,{},{}\n',
    "line 2: not valid CSV: 'utf-8' codec can't": HEAD + b"\xff\n",
    "line 65537: the row has more than 131,072 bytes": HEAD + b'"' + b"a\n" * 2**16,
}


@pytest.mark.parametrize("message", CSV)
def test_malformed_csv(message: str) -> None:
    assert_malformed(DumpFormat.CSV, CSV[message], message)


# Contents of files, by parts of the messages that they lead to.
PARQUET = {
    "not readable as Parquet": b"",
    "not readable as Parquet:": b"PAR1" + b"rubbish" * 99 + b"PAR1",
    "not readable as Parquet: ": parquet_of()[:-9],
    "should be one column package, and there are 0": parquet_of(package=None),
    "column package should hold texts, and holds int64": parquet_of(package=pa.array([1])),
    "row 1: package should be a name": parquet_of(package=pa.array([None], pa.string())),
    "row 1, package 'a': with_mirrors should be an integer (1.5)": parquet_of(
        with_mirrors=pa.array([1.5])
    ),
    "an impossible number of downloads": parquet_of(
        with_mirrors=pa.array([2**64 - 1], pa.uint64())
    ),
    "with_mirrors should be an integer": parquet_of(with_mirrors=pa.array([None], pa.int64())),
    "column with_mirrors should hold integers, and holds bool": parquet_of(
        with_mirrors=pa.array([True])
    ),
    "column with_mirrors should hold integers, and holds struct<": parquet_of(
        with_mirrors=pa.array([{f"\x1b[31m{number}": 1 for number in range(1_000)}])
    ),
    "column system should hold maps of texts to integers": parquet_of(system=pa.array([1])),
    "row 1, package 'a', system: not valid JSON": parquet_of(system=pa.array(["{"])),
    "should hold maps": parquet_of(
        system=pa.array([[("a", True)]], pa.map_(pa.string(), pa.bool_()))
    ),
    "row 1, package 'a': system has a category twice ('linux')": parquet_of(
        system=pa.array([[("linux", 1), ("linux", 2)]], MAP)
    ),
    "row 1, package 'a': system should be an object": parquet_of(system=pa.array([None], MAP)),
    "system has an unknown category ('BeOS')": parquet_of(system=pa.array([[("BeOS", 1)]], MAP)),
    "row 1: more than 131,072 bytes as text": parquet_of(package=pa.array(["a" * 2**20])),
    "day differs from 2026-11-20": parquet_of(day=pa.array([date(2026, 11, 19)])),
}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("message", PARQUET)
def test_malformed_parquet(message: str) -> None:
    assert_malformed(DumpFormat.PARQUET, PARQUET[message], message)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("dump_format", FORMATS)
def test_damage_anywhere_is_an_error_or_still_valid(dump_format: DumpFormat) -> None:
    content = written(dump_format, [downloads("a", {"3.9": 1}), downloads("b", 2)])
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        with suppress(MalformedDumpError):
            rows = read(dump_format, bytes(damaged))
            assert all(set(row.breakdowns) == {"python_minor", "system"} for row in rows)


def test_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    content = written(DumpFormat.NDJSON, [downloads(f"p{number}", 1) for number in range(11)])
    monkeypatch.setattr(limits, "MAX_ROWS", 10)
    assert_malformed(DumpFormat.NDJSON, content, "there are more than 10 rows")
    monkeypatch.setattr(limits, "MAX_LINES", 5)
    assert_malformed(DumpFormat.NDJSON, b"\n" * 6 + GOOD, "there are more than 5 lines")
    assert_malformed(DumpFormat.CSV, HEAD + b",,,,\n" * 6 + LINE, "there are more than 5 lines")
    monkeypatch.setattr(limits, "MAX_UNPACKED_BYTES", 500)
    monkeypatch.setattr(limits, "MAX_LINES", 20)
    assert_malformed(DumpFormat.NDJSON, content, "it unpacks to more than 500 bytes")


# Files that take much memory


def _rows_of(count: int, **columns: object) -> pa.Table:
    arrays = {
        "package": pa.array([f"p{number}" for number in range(count)]),
        "with_mirrors": pa.array([1] * count),
        "without_mirrors": pa.array([1] * count),
        "python_minor": pa.array([[("3.9", 1)]] * count, MAP),
        "system": pa.array([[("linux", 1)]] * count, MAP),
    }
    return pa.table(arrays | columns)


def _long_text(size: int) -> pa.Array:
    """A column with one text, for which the system need not fill memory."""
    offsets = pa.array([0, size], pa.int64()).buffers()[1]
    return pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(bytes(size)))


LONG = "a" * 100_000
BOMBS = {
    "parquet page of 1.1 GB": lambda: in_parquet(
        _rows_of(1, package=_long_text(1_100_000_000)),
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    ),
    "parquet dictionary": lambda: in_parquet(_rows_of(1_000, package=pa.array([LONG * 5] * 1_000))),
    "ndjson lists": lambda: gzip.compress(b'{"a":[' + b"[]," * 40_000 + b"0]}\n"),
    "ndjson names": lambda: gzip.compress(changed(more=LONG)) * 3_000,
    "csv record": lambda: gzip.compress(HEAD + b'"') + gzip.compress(b"a" * 2**16 + b"\n") * 8_000,
}

PEAK = """
import resource, sys
from datetime import date
from pathlib import Path
from app.dumps import formats
from app.dumps.listing import DumpFormat
from app.errors import MalformedDumpError

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with Path(sys.argv[1]).open("rb") as file:
        for rows in formats.read(file, DumpFormat(sys.argv[2]), date(2026, 11, 20)):
            pass
except MalformedDumpError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("kind", BOMBS)
def test_small_files_take_little_memory(kind: str, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(BOMBS[kind]())
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "bomb"), kind.partition(" ")[0]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    *messages, own, reader = result.stdout.splitlines()
    assert int(own) < 100, messages
    assert int(reader) < limits.MAX_READER_BYTES // 2**20 + 200, messages
    if kind.startswith("parquet page"):
        assert messages == ["reading the file takes more than 1,024 MiB of memory"]


ENDLESS = """
from app.dumps.formats import parquet_reader

parquet_reader.MAX_READER_SECONDS = 1
parquet_reader.json_lines = lambda file: iter(lambda: b"", None)
parquet_reader.main()
"""


def test_endless_parquet_ends() -> None:
    """A reader that produces nothing is killed, so that its day can time out."""
    command = [sys.executable, "-c", ENDLESS]
    result = subprocess.run(command, cwd=ROOT, timeout=PATIENCE_SECONDS, check=False)
    assert result.returncode == -SIGKILL


_ENTRY = {
    "day": "2026-11-20",
    "name": "downloads-2026-11-20-5d41402abc4b.parquet",
    "url": "",
    "format": "parquet",
    "bytes": 1,
    "sha256": "0" * 64,
    "source": "file",
    "packages": 1,
    "downloads": 1,
    "downloads_with_mirrors": 1,
    "digest": "5d41402abc4b",
    "columns": [],
}
LISTS: dict[str, Any] = {
    "objects": [{}] * 1_300_000,
    "numbers": [1] * 2_000_000,
    "columns": [_ENTRY | {"columns": [1] * 2_000_000}],
    "entries": [_ENTRY] * 14_000,
    "name": [_ENTRY | {"digest": "\x1b[31m" + "x" * 4_000_000}],
}

PEAK_OF_LIST = """
import resource, sys
from app.dumps.listing import parse
from app.errors import MalformedDumpError

text = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    parse(text)
except MalformedDumpError as error:
    assert str(error).isprintable()
    assert len(str(error)) < 300
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", LISTS)
def test_parsing_a_list_takes_little_memory(kind: str) -> None:
    text = orjson.dumps({"type": "dumps", "data": LISTS[kind]})
    assert MAX_LISTING_BYTES * 0.9 < len(text) <= MAX_LISTING_BYTES
    command = [sys.executable, "-c", PEAK_OF_LIST]
    result = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, check=True)
    assert int(result.stdout) < 60
    with pytest.raises(MalformedDumpError, match="it has more than 4,194,304 bytes"):
        parse(text + b" " * 2**20)
