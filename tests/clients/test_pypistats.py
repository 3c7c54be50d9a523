"""The published `pypistats` client, library and command line, unchanged but for the address.

Every figure that it gives is compared with what SQL says of the tables.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pypistats
import pypistats._cache
import pytest
from urllib3.exceptions import HTTPError

from tests.clients.conftest import LATEST, PUBLISHED, Held, Row, before_latest
from tests.waiting import PATIENCE_SECONDS

TABLES = ("pretty", "markdown", "md", "rst", "html", "tsv")

SERIES = ("overall", "python_major", "python_minor", "system")

CLI = Path(__file__).with_name("pypistats_cli.py")

MONTH = f"{before_latest(34):%Y-%m}"

Ask = Callable[..., Any]


@pytest.fixture
def ask(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Calls a function of the client's by its name."""
    monkeypatch.setattr(pypistats, "BASE_URL", f"{address}/api/")
    monkeypatch.setattr(pypistats._cache, "CACHE_DIR", cache)
    return lambda function, *arguments, **options: getattr(pypistats, function)(
        *arguments, **options
    )


def _table(rows: list[Row], sort: bool | str = True) -> list[Row]:
    """What the client makes of figures: shares of the grand total, an order, and a last row."""
    if len(rows) == 1:
        return rows
    totals: dict[str, int] = {}
    for row in rows:
        # With mirrors holds what is without them: the two are not added.
        group = row["category"] if row["category"].endswith("_mirrors") else ""
        totals[group] = totals.get(group, 0) + row["downloads"]
    total = max(totals.values())
    rows = [row | {"percent": f"{row['downloads'] / total:.2%}"} for row in rows]
    key = "downloads" if sort is True else sort
    if key and key in rows[0]:
        rows.sort(
            key=lambda row: float(row[key][:-1]) if key == "percent" else row[key],
            reverse=key in {"downloads", "percent"},
        )
    return [*rows, {"category": "Total", "downloads": total}]


def _cells(rows: list[Row]) -> list[list[str]]:
    names = sorted(
        {name for row in rows for name in row}, key=lambda name: (name == "downloads", name)
    )
    return [names, *([str(row.get(name, "")) for name in names] for row in rows)]


def _read(output: str, table: str) -> list[list[str]]:
    """The cells of a printed table, without colours, commas and rules."""
    plain = re.sub(r"\x1b\[\d*m|,", "", output)
    if table == "html":
        lines = [
            re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)
            for row in re.findall(r"<tr>(.*?)</tr>", re.sub(r"\n *", "", plain))
        ]
    elif table == "tsv":
        lines = [line.split("\t") for line in plain.partition("\n\n")[0].splitlines()]
    else:
        border = "│" if table == "pretty" else "|"
        lines = [line.split(border)[1:-1] for line in plain.splitlines() if line.startswith(border)]
    cells = [[cell.strip() for cell in line] for line in lines]
    return [line for line in cells if not all(re.fullmatch(r":?-+:?", cell) for cell in line)]


def _range(output: str) -> str:
    """The line below the table."""
    return output.strip().splitlines()[-1]


FILTERS = [
    ("overall", "mirrors", None, None),
    ("overall", "mirrors", True, "with_mirrors"),
    ("overall", "mirrors", False, "without_mirrors"),
    ("overall", "mirrors", "true", "with_mirrors"),
    ("overall", "mirrors", "false", "without_mirrors"),
    ("python_major", "version", None, None),
    ("python_major", "version", 2, "2"),
    ("python_major", "version", "3", "3"),
    ("python_major", "version", "null", "null"),
    ("python_minor", "version", None, None),
    ("python_minor", "version", 3.9, "3.9"),
    ("python_minor", "version", "3.10", "3.10"),
    ("python_minor", "version", "3.14", "3.14"),
    ("python_minor", "version", "null", "null"),
    ("system", "os", None, None),
    *[("system", "os", name, name) for name in ("windows", "linux", "darwin", "other", "null")],
]


@pytest.mark.parametrize(("function", "option", "value", "category"), FILTERS)
async def test_series(
    ask: Ask, held: Held, function: str, option: str, value: object, category: str | None
) -> None:
    starts, ends = (None, before_latest(50), before_latest(20)), (None, before_latest(2))
    for total, start, end in product(("daily", "monthly", "all"), starts, ends):
        rows = await held.series(
            function,
            "zope-interface",
            category,
            total=total,
            start=start or date.min,
            end=end or date.max,
        )
        assert rows
        asked = {option: value, "total": total, "start_date": start and str(start)}
        asked["end_date"] = end and str(end)
        answer = json.loads(ask(function, "Zope.Interface", format="json", **asked))
        kind = f"{function}_downloads"
        assert answer == {"data": rows, "package": "zope-interface", "type": kind}
        for sort in (True, False, "downloads", "percent", "category", "date"):
            table = ask(function, "Zope.Interface", format=None, sort=sort, **asked)
            assert table == _table(rows, sort)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("total", ["daily", "monthly", "all"])
@pytest.mark.parametrize("function", SERIES)
async def test_printed_series(ask: Ask, held: Held, function: str, total: str, table: str) -> None:
    for package, normalised in (("zope_interface", "zope-interface"), ("__all__", "__all__")):
        rows = await held.series(function, normalised, total=total)
        output = ask(function, package, total=total, format=table)
        assert _read(output, table) == _cells(_table(rows))
        assert _range(output) == f"Date range: {before_latest(179)} - {LATEST}"


@pytest.mark.parametrize("function", SERIES)
async def test_series_as_an_array(ask: Ask, held: Held, function: str) -> None:
    rows = _table(await held.series(function, "zope-interface", total="monthly"))
    array = ask(function, "zope-interface", total="monthly", format="numpy").tolist()
    assert [[str(cell) for cell in row] for row in array] == _cells(rows)[1:]


@pytest.mark.parametrize("period", [None, "day", "week", "month"])
@pytest.mark.parametrize(
    ("package", "normalised"),
    [
        ("Flask", "flask"),
        ("ZOPE.-_interface", "zope-interface"),
        ("mirrored_only", "mirrored-only"),
        ("requests", "requests"),
        ("__all__", "__all__"),
    ],
)
async def test_recent(
    ask: Ask, held: Held, package: str, normalised: str, period: str | None
) -> None:
    data = await held.recent(normalised)
    if period:
        data = {f"last_{period}": data[f"last_{period}"]}
    answer = json.loads(ask("recent", package, period=period, format="json"))
    assert answer == {"data": data, "package": normalised, "type": "recent_downloads"}
    assert ask("recent", package, period=period, format=None) == data
    for table in TABLES:
        output = ask("recent", package, period=period, format=table)
        assert _read(output, table) == _cells([data])
    array = ask("recent", package, period=period, format="numpy").tolist()
    assert array == [list(data.values())]


async def test_days_that_were_dropped_long_ago(ask: Ask) -> None:
    """The client tells from the first date of the answer what it can't be asked for."""
    first, before = before_latest(179), str(before_latest(180))
    with pytest.warns(UserWarning, match=f"earliest available data \\({first}\\)"):
        ask("overall", "zope.interface", start_date=before)
    with pytest.raises(ValueError, match=f"earliest available data \\({first}\\)"):
        ask("overall", "zope.interface", end_date=before)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("overall", {"mirrors": False}),
        ("python_major", {}),
        ("python_minor", {"version": "3.12"}),
        ("system", {"os": "linux"}),
    ],
)
def test_nothing_of_a_known_package(ask: Ask, function: str, options: dict[str, Any]) -> None:
    answer = ask(function, "Mirrored.Only", **options)
    assert answer.startswith("No data found for ")
    assert answer.endswith("/mirrored-only/")


@pytest.mark.parametrize(
    ("function", "package", "options", "status"),
    [
        ("recent", "reqeusts", {}, 404),
        ("overall", "reqeusts", {}, 404),
        ("system", "a/b", {}, 404),
        ("recent", "flask", {"period": "year"}, 422),
        ("overall", "flask", {"mirrors": "with"}, 422),
        ("system", "flask", {"os": "beos"}, 422),
    ],
)
def test_errors_are_errors_to_the_client(
    ask: Ask, cache: Path, function: str, package: str, options: dict[str, Any], status: int
) -> None:
    with pytest.raises(HTTPError, match=f"HTTP Error {status} "):
        ask(function, package, **options)
    assert not cache.exists()


def test_the_cache_of_the_client_contains_the_response(ask: Ask, cache: Path) -> None:
    told = ask("system", "Flask", format="json", total="daily")
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text()) == json.loads(told)


# The command line


@pytest.fixture
def command(
    address: str, cache: Path, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `pypistats` in an empty folder, on the latest published day."""
    folder = tmp_path / "project"
    folder.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", CLI, address, cache, str(LATEST), *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONIOENCODING": "utf-8", "FORCE_COLOR": "1"},
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    return run


Command = Callable[..., subprocess.CompletedProcess[str]]


def _end_of_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1) - timedelta(days=1)


_THIS_MONTH = LATEST.replace(day=1)
_LAST_MONTH = (_THIS_MONTH - timedelta(days=1)).replace(day=1)
_A_MONTH = before_latest(34).replace(day=1)

DATES: dict[tuple[str, ...], tuple[date | None, date | None]] = {
    (): (None, None),
    ("--start-date", str(before_latest(21))): (before_latest(21), None),
    ("-sd", MONTH): (_A_MONTH, None),
    ("--end-date", str(before_latest(4))): (None, before_latest(4)),
    ("-ed", MONTH): (None, _end_of_month(_A_MONTH)),
    ("-sd", str(before_latest(34)), "-ed", str(before_latest(9))): (
        before_latest(34),
        before_latest(9),
    ),
    ("--month", MONTH): (_A_MONTH, _end_of_month(_A_MONTH)),
    ("-m", f"{_A_MONTH:%b}"): (_A_MONTH, _end_of_month(_A_MONTH)),
    ("-m", f"{_A_MONTH:%B}".lower()): (_A_MONTH, _end_of_month(_A_MONTH)),
    ("--last-month",): (_LAST_MONTH, _end_of_month(_LAST_MONTH)),
    ("-l",): (_LAST_MONTH, _end_of_month(_LAST_MONTH)),
    ("--this-month",): (_THIS_MONTH, None),
    ("-t",): (_THIS_MONTH, None),
}


def _succeeds(result: subprocess.CompletedProcess[str]) -> str:
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("dates", DATES, ids=" ".join)
async def test_command_with_dates(command: Command, held: Held, dates: tuple[str, ...]) -> None:
    start, end = DATES[dates]
    output = _succeeds(command("python_minor", "Zope.Interface", *dates))
    rows = await held.series(
        "python_minor", "zope-interface", start=start or date.min, end=end or date.max
    )
    assert _read(output, "pretty") == _cells(_table(rows))
    first, last = start or before_latest(max(PUBLISHED)), end or LATEST
    assert _range(output) == f"Date range: {first} - {last}"


OPTIONS: dict[tuple[str, ...], tuple[str | None, str]] = {
    ("overall",): (None, "all"),
    ("overall", "--mirrors", "true"): ("with_mirrors", "all"),
    ("overall", "--mirrors", "false", "--daily"): ("without_mirrors", "daily"),
    ("overall", "--mirrors", "with", "--monthly"): ("with_mirrors", "monthly"),
    ("overall", "--mirrors", "without"): ("without_mirrors", "all"),
    ("overall", "-d"): (None, "daily"),
    ("python_major",): (None, "all"),
    ("python_major", "--version", "3"): ("3", "all"),
    ("python_major", "-V", "2", "--monthly"): ("2", "monthly"),
    ("python_major", "-d"): (None, "daily"),
    ("python_minor", "--monthly"): (None, "monthly"),
    ("python_minor", "--version", "3.10", "-d"): ("3.10", "daily"),
    ("python_minor", "-V", "3.14"): ("3.14", "all"),
    ("system",): (None, "all"),
    ("system", "--os", "linux", "--daily"): ("linux", "daily"),
    ("system", "-o", "null", "--monthly"): ("null", "monthly"),
    ("system", "-o", "other"): ("other", "all"),
}


@pytest.mark.parametrize("asked", OPTIONS, ids=" ".join)
async def test_command(command: Command, held: Held, asked: tuple[str, ...]) -> None:
    category, total = OPTIONS[asked]
    subcommand, *options = asked
    rows = await held.series(subcommand, "zope-interface", category, total=total)
    answer = json.loads(_succeeds(command(subcommand, "zope_interface", *options, "--json")))
    assert answer["data"] == rows
    output = _succeeds(command(subcommand, "ZOPE-INTERFACE", *options, "--color", "no"))
    assert "\x1b" not in output
    assert _read(output, "pretty") == _cells(_table(rows))


@pytest.mark.parametrize("table", TABLES)
async def test_command_with_formats(command: Command, held: Held, table: str) -> None:
    rows = await held.series("system", "__all__")
    output = _succeeds(command("system", "__all__", "--format", table, "-c", "yes"))
    assert ("\x1b" in output) == (table != "html")
    assert _read(output, table) == _cells(_table(rows))


@pytest.mark.parametrize("sort", ["downloads", "date", "category", "percent"])
async def test_command_with_orders(command: Command, held: Held, sort: str) -> None:
    rows = await held.series("python_major", "zope-interface", total="daily")
    output = _succeeds(command("python_major", "zope.interface", "-d", "--sort", sort))
    assert _read(output, "pretty") == _cells(_table(rows, sort))


@pytest.mark.parametrize(
    "options", [(), ("-p", "day"), ("--period", "week"), ("-p", "month")], ids=" ".join
)
async def test_recent_command(command: Command, held: Held, options: tuple[str, ...]) -> None:
    data = await held.recent("flask")
    if options:
        data = {f"last_{options[1]}": data[f"last_{options[1]}"]}
    assert json.loads(_succeeds(command("recent", "Flask", *options, "-j")))["data"] == data
    for table in ("pretty", "tsv"):
        output = _succeeds(command("recent", "Flask", *options, "-f", table))
        assert _read(output, table) == _cells([data])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("pyproject.toml", '[project]\nname = "Zope.Interface"\n'),
        ("setup.cfg", "[metadata]\nname = Zope.Interface\n"),
    ],
)
async def test_command_in_a_project(
    command: Command, held: Held, tmp_path: Path, file: str, content: str
) -> None:
    """Without a package it asks for the project's, spelt as the project spells it."""
    (tmp_path / "project" / file).write_text(content)
    answer = json.loads(_succeeds(command("recent", "--json")))
    assert answer["data"] == await held.recent("zope-interface")


def test_command_tells_what_it_does(command: Command, address: str) -> None:
    result = command("system", "Flask", "--verbose")
    assert result.returncode == 0
    assert f"{address}/api/packages/flask/system" in result.stderr
    assert "HTTP status code: 200" in result.stderr
    assert "Cache file exists" in command("system", "Flask", "--verbose").stderr


@pytest.mark.parametrize("subcommand", ["recent", *SERIES])
def test_command_for_an_unknown_package(command: Command, subcommand: str) -> None:
    result = command(subcommand, "reqeusts")
    assert (result.returncode, result.stdout) == (1, "")
    assert "HTTP Error 404 " in result.stderr
