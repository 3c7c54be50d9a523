"""Files are read as they were written, by this program or another one."""

import gzip
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from pyarrow import parquet

from app.domain.downloads import PackageDownloads
from app.dumps.formats import limits, parquet_format
from app.dumps.listing import DumpFormat
from tests.days import downloads
from tests.dumps.file_contents import (
    DAY,
    FORMATS,
    GOOD,
    HEAD,
    LINE,
    MAP,
    batches_of,
    changed,
    in_parquet,
    parquet_of,
    read,
    written,
)
from tests.dumps.rows import DAYS


@settings(max_examples=50)
@given(day=DAYS)
def test_written_files_are_read_unchanged(day: Sequence[PackageDownloads]) -> None:
    half = len(day) // 2
    parts = [part for part in (day[:half], day[half:]) if part]
    for dump_format in (DumpFormat.CSV, DumpFormat.NDJSON):
        content = written(dump_format, *parts)
        assert read(dump_format, content) == day
        assert content == written(dump_format, *parts)


@pytest.mark.parametrize("dump_format", FORMATS)
def test_many_rows_are_read_in_bounded_batches(
    dump_format: DumpFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_format, "ROW_GROUP_ROWS", 2 * limits.BATCH_ROWS)
    count = 4 * limits.BATCH_ROWS - 1
    rows = [downloads(f"package-{number:06}", number) for number in range(1, count + 1)]
    parts = [rows[start : start + 1000] for start in range(0, count, 1000)]
    content = written(dump_format, *parts)
    assert content == written(dump_format, *parts)
    batches = batches_of(dump_format, content)
    assert {len(batch) for batch in batches[:-1]} == {limits.BATCH_ROWS}
    assert [row for batch in batches for row in batch] == rows


def test_a_batch_has_a_bounded_number_of_categories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BATCH_CATEGORIES", 4)
    rows = [downloads(name, {"3.12": 2, "3.9": 1}) for name in "abc"]
    batches = batches_of(DumpFormat.NDJSON, written(DumpFormat.NDJSON, rows))
    assert [len(batch) for batch in batches] == [2, 1]


def test_parquet_files_contain_rows_day_and_source() -> None:
    rows = [
        downloads("a", {"3.12": 2, "3.9": 1}, {"linux": 3}, mirrors=4),
        downloads("b", 0, mirrors=1),
    ]
    table = parquet.read_table(io.BytesIO(written(DumpFormat.PARQUET, rows)))
    assert table.to_pylist() == [
        {
            "day": DAY,
            "package": "a",
            "with_mirrors": 7,
            "without_mirrors": 3,
            "python_minor": [("3.12", 2), ("3.9", 1)],
            "system": [("linux", 3)],
        },
        {
            "day": DAY,
            "package": "b",
            "with_mirrors": 1,
            "without_mirrors": 0,
            "python_minor": [],
            "system": [],
        },
    ]
    assert table.schema.metadata == {
        b"pypi_stats_day": b"2026-11-20",
        b"pypi_stats_source": b"given",
        b"pypi_stats_counted_files": b"all",
    }
    assert gzip.decompress(written(DumpFormat.NDJSON, rows)).decode() == (
        '{"day":"2026-11-20","package":"a","with_mirrors":7,"without_mirrors":3,'
        '"python_minor":{"3.12":2,"3.9":1},"system":{"linux":3}}\n'
        '{"day":"2026-11-20","package":"b","with_mirrors":1,"without_mirrors":0,'
        '"python_minor":{},"system":{}}\n'
    )
    assert gzip.decompress(written(DumpFormat.CSV, rows)).decode() == (
        "day,package,with_mirrors,without_mirrors,python_minor,system\n"
        '2026-11-20,a,7,3,"{""3.12"":2,""3.9"":1}","{""linux"":3}"\n'
        "2026-11-20,b,1,0,{},{}\n"
    )


# Files of other programs


@pytest.mark.parametrize(
    ("dump_format", "content"),
    [
        (DumpFormat.NDJSON, b"\xef\xbb\xbf\r\n" + GOOD.replace(b"\n", b"\r\n") + b"\n  \r\n"),
        (DumpFormat.NDJSON, GOOD.replace(b":", b" : ").strip()),
        (DumpFormat.NDJSON, gzip.compress(b"\xef\xbb\xbf" + GOOD)),
        (DumpFormat.NDJSON, changed(system={"Linux": 1, "darwin": None}, country=None)),
        (DumpFormat.NDJSON, changed(system=[{"key": "LINUX", "value": 1}], day=str(DAY))),
        (DumpFormat.NDJSON, changed(system=[["linux", 1]], day=f"{DAY}T00:00:00Z")),
        (DumpFormat.NDJSON, changed(system=' {"Linux": 1}', ci="null", country="")),
        (DumpFormat.CSV, b"\xef\xbb\xbf\n" + HEAD + b"\n" + LINE + b" \n,,,,\n"),
        (DumpFormat.CSV, (HEAD + LINE + b"\n").replace(b"\n", b"\r\n")),
        (DumpFormat.CSV, (HEAD + LINE).replace(b":1", b" : 1 ").replace(b"linux", b"Linux")),
    ],
    ids=str.split(
        "bom-crlf spaces gzip-bom case-null pairs-of-keys pairs-time json-texts "
        "csv-bom-blank csv-crlf csv-spaces-case"
    ),
)
def test_other_spellings_of_text_are_read(dump_format: DumpFormat, content: bytes) -> None:
    assert read(dump_format, content) == [downloads("a", {"3.9": 1})]


def test_invented_versions_of_python_are_bounded() -> None:
    """The rule is that of the query: versions with more than two digits after the dot are null."""
    counts = {f"3.{number}": 1 for number in range(3_000)}
    counts |= {"3.12.1": 2, "3.100.0": 3, f"3.{'9' * 5_000}": 4}
    (row,) = read(
        DumpFormat.NDJSON,
        changed(
            python_minor=counts, system={"linux": 3_009}, without_mirrors=3_009, with_mirrors=3_009
        ),
    )
    versions = {f"3.{number}": 1 for number in range(100)} | {"3.12": 3, "null": 2_907}
    assert row.breakdowns["python_minor"] == versions


PAIRS = [[{"k": "linux", "v": 1}]]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    "columns",
    [
        {"more": pa.array([{"x": 1}]), "ci": pa.array([None], MAP), "country": pa.nulls(1)},
        *(
            {"package": pa.array([value], kind)}
            for value, kind in (
                ("a", pa.large_string()),
                ("a", pa.string_view()),
                (b"a", pa.binary()),
                (b"a", pa.large_binary()),
            )
        ),
        {"package": pa.array(["a"]).dictionary_encode()},
        *(
            {"with_mirrors": pa.array([1], kind)}
            for kind in (pa.int8(), pa.uint16(), pa.uint32(), pa.int32(), pa.uint64())
        ),
        *({"with_mirrors": pa.array([1]).cast(kind)} for kind in (pa.float64(), pa.decimal128(38))),
        *(
            {"system": pa.array(PAIRS, kind(pa.struct([("k", text), ("v", number)])))}
            for kind in (pa.list_, pa.large_list, lambda one: pa.list_(one, 1))
            for text in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))
            for number in (pa.int64(), pa.uint32())
        ),
        {"system": pa.array([[("Linux", 1)]], pa.map_(pa.large_string(), pa.int32()))},
        {
            "system": pa.array(
                [[("linux", 1)]], pa.map_(pa.dictionary(pa.int8(), pa.string()), pa.uint8())
            )
        },
        {"system": pa.array([{"linux": 1, "darwin": None}])},
        {"system": pa.array(['{"Linux": 1}']).dictionary_encode(), "ci": pa.array(["null"])},
        {"system": pa.array(['{"linux": 1}']).cast(pa.json_())},
        {"day": pa.array([DAY])},
        {"day": pa.array([DAY]).cast(pa.timestamp("us"))},
        {"day": pa.array([str(DAY)])},
    ],
    ids=lambda columns: ",".join(f"{name}:{one.type}" for name, one in columns.items()),
)
def test_parquet_is_read_by_its_values(columns: dict[str, Any]) -> None:
    assert read(DumpFormat.PARQUET, parquet_of(**columns)) == [downloads("a", {"3.9": 1})]


ROWS = [
    downloads("a", {"3.9": 1, "null": 2}, {"linux": 3}, mirrors=4),
    downloads("b", 0, mirrors=1),
    downloads("c", {"3.12": 2}, {"linux": 1, "windows": 1}),
]


@pytest.mark.parametrize("program", ["pandas", "pandas struct", "polars", "duckdb"])
def test_files_that_other_programs_write_are_read(program: str, tmp_path: Path) -> None:
    """Each program reads our Parquet file, where it can, and writes its own."""
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    ours.write_bytes(written(DumpFormat.PARQUET, ROWS))
    if program == "pandas":
        frame = pd.read_parquet(ours, dtype_backend="pyarrow")
        frame["package"] = frame["package"].astype("category")
        frame.to_parquet(theirs)
    elif program == "pandas struct":
        rows = [{**row._asdict(), **row.breakdowns} for row in ROWS]
        pd.DataFrame(rows).drop(columns="breakdowns").to_parquet(theirs)
    elif program == "polars":
        pl.read_parquet(ours).write_parquet(theirs)
    else:
        query = (
            "SELECT package, sum(with_mirrors) AS with_mirrors, sum(without_mirrors) AS "
            "without_mirrors, any_value(python_minor) AS python_minor, any_value(system) AS system "
            f"FROM '{ours}' GROUP BY package ORDER BY package"
        )
        duckdb.sql(f"COPY ({query}) TO '{theirs}' (FORMAT parquet)")
    assert read(DumpFormat.PARQUET, theirs.read_bytes()) == ROWS


def test_the_reader_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("app", "csv"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    assert read(DumpFormat.PARQUET, written(DumpFormat.PARQUET, ROWS)) == ROWS


def test_programs_may_convert_csv(tmp_path: Path) -> None:
    """CSV has its breakdowns as texts, and programs that read it leave them so."""
    ours, theirs = tmp_path / "ours.csv", tmp_path / "theirs"
    ours.write_bytes(gzip.decompress(written(DumpFormat.CSV, ROWS)))
    frame = pd.read_csv(ours)
    as_json = "SELECT * REPLACE (system::JSON AS system)"
    for dump_format, convert in (
        (DumpFormat.PARQUET, frame.to_parquet),
        (DumpFormat.PARQUET, pl.read_csv(ours).write_parquet),
        (DumpFormat.PARQUET, duckdb.sql(f"{as_json} FROM '{ours}'").write_parquet),
        (DumpFormat.NDJSON, partial(frame.to_json, orient="records", lines=True)),
        (DumpFormat.NDJSON, pl.read_csv(ours).write_ndjson),
    ):
        convert(str(theirs))
        assert read(dump_format, theirs.read_bytes()) == ROWS


def test_polars_and_duckdb_write_ndjson_that_is_read(tmp_path: Path) -> None:
    ours = tmp_path / "ours.parquet"
    ours.write_bytes(written(DumpFormat.PARQUET, ROWS))
    pl.read_parquet(ours).write_ndjson(tmp_path / "polars.ndjson")
    duckdb.sql(f"COPY (FROM '{ours}') TO '{tmp_path}/duckdb.ndjson' (FORMAT json)")
    for program in ("polars", "duckdb"):
        assert read(DumpFormat.NDJSON, (tmp_path / f"{program}.ndjson").read_bytes()) == ROWS


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    "options",
    [
        {"row_group_size": 700},
        {"use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"package": "DELTA_BYTE_ARRAY"}},
        {"dictionary_pagesize_limit": 1_000, "data_page_size": 100, "write_batch_size": 10},
        {"data_page_version": "2.0", "compression": "none"},
        {"store_schema": False},
    ],
    ids=str,
)
def test_parquet_is_read_however_it_is_encoded(options: dict[str, object]) -> None:
    rows = [
        downloads(f"p{number}", {f"3.{number % 50}": number + 1, "null": 1})
        for number in range(5_000)
    ]
    table = parquet.read_table(io.BytesIO(written(DumpFormat.PARQUET, rows)))
    assert read(DumpFormat.PARQUET, in_parquet(table, **options)) == rows
