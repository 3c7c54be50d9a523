"""Fixtures of the tests of dumps."""

import pytest

from app.dumps.formats import parquet_format, parquet_reader


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the reader of Parquet in this process, which takes a fraction of the time."""
    monkeypatch.setattr(parquet_format, "lines_of", parquet_reader.json_lines)
