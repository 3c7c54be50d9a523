"""What the command line shows, where the command line's own tests do not get to."""

from dataclasses import replace
from datetime import UTC, date, datetime

from app.cli.inspect import history_report, status_report
from app.db.repositories.downloads_repository import Size
from app.domain.downloads import (
    DayFigures,
    HeldDay,
    IngestRun,
    PartitionFields,
    PublishedDay,
    RunOutcome,
)
from app.domain.events import CountedFiles
from app.domain.months import StoredMonth
from app.settings import Settings

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SETTINGS = Settings()


def published(day: date, *breakdowns: str) -> PublishedDay:
    return PublishedDay(
        day=day,
        source="given",
        packages=700_000,
        downloads=3_000_000_000,
        downloads_with_mirrors=3_100_000_000,
        digest="",
        published_at=NOON,
        checked_at=NOON,
        breakdowns=breakdowns,
    )


def test_gaps_are_shown_as_ranges() -> None:
    days = [published(date(2026, 11, day)) for day in (1, 2, 4, 8, 9)]
    report = status_report(
        SETTINGS, next_run=NOON, days=days, held=[], last_run=None, size=Size(5, 2**20)
    ).splitlines()
    assert "gaps         2026-11-03, 2026-11-05 to 2026-11-07" in report
    assert "last ingest  none" in report
    assert "next job     2026-11-20 12:00 UTC" in report
    assert (
        report[-1] == "2026-11-01   700,000  3,000,000,000  2026-11-20 12:00 UTC               -  -"
    )


def test_status_counts_the_days_of_each_breakdown() -> None:
    days = [
        published(date(2026, 11, 1)),
        published(date(2026, 11, 2), "installer"),
        published(date(2026, 11, 3), "installer", "version"),
    ]
    report = status_report(
        SETTINGS, next_run=NOON, days=days, held=[], last_run=None, size=Size(5, 2**20)
    )
    assert "breakdowns   installer on 2 days, version on 1 days\n" in report


def test_status_shows_the_rules_by_which_files_were_counted() -> None:
    days = [published(date(2026, 8, day)) for day in (21, 22, 23)]

    def report() -> str:
        return status_report(
            SETTINGS, next_run=NOON, days=days, held=[], last_run=None, size=Size(5, 2**20)
        )

    assert "counted      all files\n" in report()
    days[0] = replace(days[0], counted_files=CountedFiles.ARTIFACTS)
    assert "counted      only .whl, .tar.gz and .zip on 1 days, all files on 2 days\n" in report()


def test_status_shows_the_stored_months() -> None:
    month = StoredMonth(
        month=date(2026, 4, 1),
        days=30,
        source="given",
        counted_files=CountedFiles.ALL,
        breakdowns=(),
        categories={},
        packages=1,
        downloads=1,
        downloads_with_mirrors=1,
        digest="",
        rolled_up_at=NOON,
    )
    months = [month, replace(month, month=date(2026, 5, 1))]
    report = status_report(
        SETTINGS, next_run=NOON, days=[], held=[], months=months, last_run=None, size=Size(5, 2**20)
    )
    assert "months       2 from 2026-04 to 2026-05\n" in report


def test_status_of_an_empty_database_shows_none() -> None:
    report = status_report(
        SETTINGS, next_run=None, days=[], held=[], last_run=None, size=Size(0, 0)
    )
    assert "gaps         none" in report
    assert "next job     none" in report
    assert report.splitlines()[-2:] == ["held         none", "suspect      none"]


def test_a_run_that_does_not_end_has_no_duration() -> None:
    run = IngestRun(
        id=1,
        day=date(2026, 11, 19),
        source="bigquery",
        started_at=NOON,
        ended_at=None,
        outcome=RunOutcome.INTERRUPTED,
        rows=None,
        bytes_billed=200_000_000_000,
        query="US/1",
        error=None,
    )
    (_, line) = history_report([run]).splitlines()
    assert line.split() == [
        *("2026-11-20", "12:00", "UTC", "2026-11-19", "bigquery"),
        *("-", "-", "200,000,000,000", "-", "-", "interrupted"),
    ]


def test_status_and_history_show_the_partition() -> None:
    day = replace(
        published(date(2026, 11, 19)), partition_rows=5_000_000_000, partition_modified_at=NOON
    )
    report = status_report(
        SETTINGS, next_run=None, days=[day], held=[], last_run=None, size=Size(5, 2**20)
    )
    held = HeldDay(
        **{name: getattr(day, name) for name in DayFigures.__slots__ + PartitionFields.__slots__},
        reason="few",
        held_since=NOON,
        read_at=NOON,
        readings=1,
        same_since=NOON,
        wrong_rows=0,
    )
    doubtful = status_report(
        SETTINGS,
        next_run=None,
        days=[replace(day, suspect_reason="few")],
        held=[replace(held, day=date(2026, 11, 18)), replace(held, partition_rows=None)],
        last_run=None,
        size=Size(5, 2**20),
    )
    seen = "partition of 5,000,000,000 rows, modified 2026-11-20 12:00 UTC"
    assert f"\n  2026-11-18 few; tried 1 times, next at 2026-11-20 12:30 UTC; {seen}\n" in doubtful
    assert "UTC; no partition seen\n" in doubtful
    assert f"\n  2026-11-19 few; next check at 2026-11-21 12:00 UTC; {seen}\n" in doubtful
    head, line = report.splitlines()[-2:]
    assert head.split()[-3:] == ["partition", "rows", "modified"]
    assert line.endswith("  2026-11-20 12:00 UTC   5,000,000,000  2026-11-20 12:00 UTC")
    run = IngestRun(
        id=1,
        day=day.day,
        source="bigquery",
        started_at=NOON,
        ended_at=NOON,
        outcome=RunOutcome.UNCHANGED,
        rows=None,
        bytes_billed=None,
        query=None,
        error=None,
        partition_rows=day.partition_rows,
        partition_modified_at=day.partition_modified_at,
    )
    (_, line) = history_report([run]).splitlines()
    assert line.split()[5:] == [
        *("0.0", "-", "-"),
        *("5,000,000,000", "2026-11-20", "12:00", "UTC", "unchanged"),
    ]
