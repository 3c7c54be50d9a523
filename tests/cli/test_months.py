"""Importing and exporting months by the command line."""

import json
import re
from pathlib import Path

import pytest

from tests.processes import assert_fails, run


@pytest.mark.parametrize("command", ["backfill", "export"])
@pytest.mark.parametrize(
    ("months", "parts"),
    [
        ("2018-13", ["2018-13", "such as 2018-01..2026-05"]),
        ("2018-01..2018-00", ["such as 2018-01..2026-05"]),
        ("2026-05..2018-01", ["ends before it begins"]),
        ("2018-01..", ["such as 2018-01..2026-05"]),
        ("..2018-01", ["such as 2018-01..2026-05"]),
        ("2018-01...2018-02", ["such as 2018-01..2026-05"]),
        ("2018-01..2018-02..2018-03", ["such as 2018-01..2026-05"]),
        ("2018-1", ["such as 2018-01..2026-05"]),
        ("2018-01-01", ["such as 2018-01..2026-05"]),
        ("0000-01", ["such as 2018-01..2026-05"]),
        ("May", ["'May'", "such as 2018-01..2026-05"]),
        ("", ["such as 2018-01..2026-05"]),
    ],
)
def test_wrong_months(command: str, months: str, parts: list[str]) -> None:
    assert_fails(run(command, "--months", months), 2, "--months", *parts)


@pytest.mark.parametrize(
    "arguments",
    [
        ("backfill", "--start", "2026-05-01"),
        ("backfill", "--end", "2026-05-01"),
        ("backfill", "--replace-sample"),
        ("export", "--date", "2026-05-01"),
        ("export", "--start", "2026-05-01"),
        ("export", "--end", "2026-05-01"),
    ],
)
def test_months_exclude_days(arguments: tuple[str, ...]) -> None:
    assert_fails(run(*arguments, "--months", "2026-05"), 2, "--months", "can't be combined with")


def test_a_dry_run_of_a_backfill_requires_months() -> None:
    assert_fails(run("backfill", "--dry-run"), 2, "--dry-run", "requires --months")


def test_months_that_can_not_be_imported(sample_url: str) -> None:
    sample = ("backfill", "--source", "sample", "--months")
    for months, message in (
        (
            "2026-11",
            "2026-11 can't be imported: the first month is 2016-01, and the latest",
        ),
        ("2026-05..2027-01", "2027-01 can't be imported"),
        ("2015-12..2026-05", "2015-12 can't be imported"),
    ):
        assert_fails(run(*sample, months, DATABASE_URL=sample_url), 1, message)
    limited = run(*sample, "2026-05", DATABASE_URL=sample_url, KEEP_MONTHS="3")
    assert_fails(limited, 1, "KEEP_MONTHS=3 keeps the months from 2026-08 on")
    none = run("export", "--months", "2026-05", "--to", "nowhere", DATABASE_URL=sample_url)
    assert_fails(none, 1, "no month from 2026-05 to 2026-05 is stored")


def test_an_empty_database_needs_days_first(database_url: str) -> None:
    result = run("backfill", "--source", "sample", "--months", "2026-05", DATABASE_URL=database_url)
    assert_fails(result, 1, "no day is published yet")


def test_months_from_import_to_export(sample_url: str, tmp_path: Path) -> None:
    command = ("backfill", "--source", "sample", "--months", "2026-03..2026-07")
    free = run(*command, "--dry-run", DATABASE_URL=sample_url)
    assert (free.returncode, free.stdout) == (0, "sample data bills nothing\n")
    imported = run(*command, DATABASE_URL=sample_url)
    assert (imported.returncode, imported.stdout) == (0, "3 of 3 months stored, 0 failed\n")
    first, *stored = imported.stderr.splitlines()
    assert first == "not imported, but rolled up from days in the database: 2026-06 to 2026-07"
    assert [line.partition(", ")[0] for line in stored] == [
        f"stored 2026-{month}: 200 packages" for month in ("05", "04", "03")
    ]
    again = run(*command, DATABASE_URL=sample_url)
    assert (again.returncode, again.stdout) == (0, "0 of 0 months stored, 0 failed\n")
    assert (
        "stored already, and imported again only with --force: 2026-03 to 2026-05" in again.stderr
    )
    forced = run(*command, "--force", DATABASE_URL=sample_url)
    assert forced.stdout == "3 of 3 months stored, 0 failed\n"
    history = run("history", "--limit", "6", DATABASE_URL=sample_url).stdout
    assert len(re.findall(r"2026-0[345] +sample", history)) == 6

    to = str(tmp_path)
    one = run("export", "--to", to, "--months", "2026-04", DATABASE_URL=sample_url)
    assert one.stdout == f"1 of 1 months written to {to}, 0 unchanged\n"
    exported = run("export", "--to", to, DATABASE_URL=sample_url)
    assert exported.stdout == f"30 of 30 days and 2 of 3 months written to {to}, 1 unchanged\n"
    listed = json.loads((tmp_path / "_index.json").read_bytes())
    assert [one["month"] for one in listed["months"]] == ["2026-05", "2026-04", "2026-03"]
    assert {one["name"][:15] for one in listed["months"]} == {"sample-monthly-"}
    assert len(listed["data"]) == 30
