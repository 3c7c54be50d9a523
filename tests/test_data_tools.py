"""The snippets of docs/data-tools.md, run on a service's response."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT, get

SNIPPETS = re.findall(
    r"^```python\n(.*?)^```$",
    (ROOT / "docs" / "data-tools.md").read_text(),
    re.MULTILINE | re.DOTALL,
)
ROWS: dict[str, Callable[[Any], Any]] = {
    "pandas": lambda table: table.itertuples(index=False, name=None),
    "polars": lambda table: table.iter_rows(),
    "duckdb": lambda table: table.fetchall(),
}
Rows = list[tuple[str, str, int]]


@pytest.fixture
def rows(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """The rows of the file that the snippets read."""
    text = get(f"{address}/api/packages/requests/python_minor?format=csv").text
    Path(tmp_path, "python_minor.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    _, *rows = csv.reader(text.splitlines())
    assert {"3.10", "null"} <= {category for category, _, _ in rows}
    return [(category, date, int(downloads)) for category, date, downloads in rows]


@pytest.mark.parametrize("library", ROWS)
def test_snippets_keep_versions_and_unknown_values(library: str, rows: Rows) -> None:
    (snippet,) = [one for one in SNIPPETS if one.startswith(f"import {library}\n")]
    names: dict[str, Any] = {}
    exec(snippet, names)
    read = [
        (category, str(date)[:10], count)
        for category, date, count in ROWS[library](names["downloads"])
    ]
    assert read == rows
