"""The programs of docs/recipes.md, run against a service."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from tests.processes import ROOT, get

EXAMPLE = "https://stats.example.org"
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / "recipes.md").read_text(), re.MULTILINE | re.DOTALL
)


def _block(kind: str, part: str = "") -> str:
    (block,) = [text for one, text in BLOCKS if one == kind and part in text]
    return block


def _run(part: str, address: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(_block("python", part).replace(EXAMPLE, address), names)
    return names


def test_the_mirror_fetches_what_has_changed(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = _run("/api/changes", address)
    assert len(names["changed"]) == 30
    (file,) = tmp_path.glob("*.parquet")
    assert file.stem in names["changed"]
    assert Path("since.txt").read_text() == names["changes"]["next"]
    file.unlink()
    assert _run("/api/changes", address)["changed"] == set()
    assert not file.exists()


def test_dumps_in_each_library(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    latest = _run("latest = ", address)["latest"]
    assert Path("day.parquet").stat().st_size == latest["bytes"]
    ranking = get(f"{address}/api/top?period=day&limit=10").json()["data"]
    expected = [(one["package"], one["downloads"]) for one in ranking]
    rows: dict[str, Callable[[Any], Any]] = {
        "pandas": lambda top: top.itertuples(index=False, name=None),
        "polars": lambda top: top.sort("without_mirrors", descending=True).iter_rows(),
        "duckdb": lambda top: [row[:2] for row in top.fetchall() if 0 < row[2] < 1],
    }
    for library, read in rows.items():
        assert list(read(_run(f"import {library}\n", address)["top"])) == expected


@pytest.mark.parametrize(("lowest", "opens"), [("-1", False), ("10", True)])
def test_the_action_opens_an_issue(address: str, tmp_path: Path, lowest: str, opens: bool) -> None:
    (job,) = yaml.safe_load(_block("yaml"))["jobs"].values()
    (step,) = job["steps"]
    # The program that opens issues only records its arguments.
    (tmp_path / "gh").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$OPENED"\n')
    (tmp_path / "gh").chmod(0o755)
    opened = tmp_path / "opened"
    environment = job["env"] | {"SERVICE": address, "LOWEST_CHANGE": lowest, "OPENED": str(opened)}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "-e", "-c", step["run"]]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    change = get(f"{address}/api/packages/requests").json()["data"]["change"]["week"]
    assert result.stdout == f"change from week to week: {change}\n"
    assert opened.exists() == opens
    if opens:
        assert f"Downloads of requests changed by {change}" in opened.read_text().splitlines()


def test_the_query_of_grafana(address: str) -> None:
    query = json.loads(_block("json"))
    response = get(query["url"].replace(EXAMPLE, address)).json()
    items = response[query["root_selector"]]
    types = {"timestamp": str, "string": str, "number": int}
    assert items
    for column in query["columns"]:
        assert {type(item[column["selector"]]) for item in items} == {types[column["type"]]}


def test_the_badge(address: str) -> None:
    (image,) = re.findall(r"\((https:[^)]+)\)", _block("markdown"))
    (url,) = parse_qs(urlsplit(image).query)["url"]
    badge = get(url.replace(EXAMPLE, address)).json()
    # The schema of shields.io's endpoint badge.
    assert badge["schemaVersion"] == 1
    assert {type(badge[key]) for key in ("label", "message", "color")} == {str}
    assert badge.keys() <= {"schemaVersion", "label", "message", "color", "cacheSeconds"}
