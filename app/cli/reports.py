"""Reports of the database and of its ingests, as text for a terminal."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from app.db.repositories.downloads_repository import Size
from app.domain.breakdowns import OPTIONAL_BREAKDOWNS
from app.domain.downloads import (
    RECENT_STATUS_DAYS,
    HeldDay,
    IngestRun,
    PartitionSeen,
    PublishedDay,
    date_ranges,
    gaps,
)
from app.domain.events import CountedFiles
from app.ingest.plan import Cadence, check_again_at, read_again_at

COUNTED = {CountedFiles.ALL: "all files", CountedFiles.ARTIFACTS: "only .whl, .tar.gz and .zip"}


def status_report(
    cadence: Cadence,
    *,
    next_run: datetime | None,
    days: Sequence[PublishedDay],
    held: Sequence[HeldDay],
    last_run: IngestRun | None,
    size: Size,
) -> str:
    latest = days[-1] if days else None
    counted = Counter(COUNTED[day.counted_files] for day in days)
    breakdowns = {
        breakdown.name: sum(breakdown.column in day.breakdowns for day in days)
        for breakdown in OPTIONAL_BREAKDOWNS
    }
    suspect = {day.day: day for day in days if day.suspect_reason}
    rows = {
        "source": ", ".join(sorted({day.source for day in days})),
        "days": f"{len(days)} of {cadence.policy.retention_days}",
        "first day": str(days[0].day) if days else "",
        "latest day": str(latest.day) if latest else "",
        "published": _moment(latest.published_at) if latest else "",
        "gaps": date_ranges(gaps(days)),
        "breakdowns": _by_days(breakdowns),
        "counted": _by_days(counted) if len(counted) > 1 else "".join(counted),
        "packages": f"{size.packages:,}"
        + (f", {latest.packages:,} of them on the latest day" if latest else ""),
        "size": f"{size.size_bytes / 2**20:,.1f} MiB",
        "last run": f"{_moment(last_run.started_at)}: {last_run.day} {_outcome(last_run)}"
        if last_run
        else "",
        "next run": _moment(next_run) if next_run else "",
        "held": date_ranges([one.day for one in held]),
    }
    lines = [_line(*row) for row in rows.items()]
    for one in held:
        again = _moment(read_again_at(cadence, one))
        checks = f"read {one.readings} times, again from {again}"
        lines.append(f"  {one.day} {one.reason}; {checks}; {_seen(one)}")
    lines.append(_line("suspect", date_ranges(suspect)))
    for day in suspect.values():
        again = _moment(check_again_at(day))
        lines.append(f"  {day.day} {day.suspect_reason}; checked again from {again}; {_seen(day)}")
    if days:
        head = ("day", "packages", "downloads", "published", "partition rows", "modified")
        figures = (
            (
                str(day.day),
                f"{day.packages:,}",
                f"{day.downloads:,}",
                _moment(day.published_at),
                *_partition(day),
            )
            for day in days[: -RECENT_STATUS_DAYS - 1 : -1]
        )
        lines += ["", *_table(head, *figures)]
    return "\n".join(lines)


def history_report(runs: Sequence[IngestRun]) -> str:
    if not runs:
        return "no day has been ingested yet"
    head = ("start", "day", "source", "seconds", "rows", "bytes billed")
    rows = []
    for run in runs:
        seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at else None
        figures = (_number(seconds, ",.1f"), _number(run.rows), _number(run.bytes_billed))
        start = _moment(run.started_at)
        rows.append((start, str(run.day), run.source, *figures, *_partition(run), _outcome(run)))
    return "\n".join(_table((*head, "partition rows", "modified", "outcome"), *rows))


def _line(name: str, value: str) -> str:
    return f"{name:<12} {value or 'none'}"


def _table(*rows: Sequence[str]) -> list[str]:
    """Return the rows with all columns but the last one right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]


def _by_days(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} on {count} days" for name, count in counts.items() if count)


def _outcome(run: IngestRun) -> str:
    return f"{run.outcome}: {run.error}" if run.error else run.outcome


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _partition(seen: PartitionSeen) -> tuple[str, str]:
    """Return the rows of the source's partition, and when it was modified."""
    partition = seen.partition
    return (f"{partition.rows:,}", _moment(partition.modified_at)) if partition else ("-", "-")


def _seen(seen: PartitionSeen) -> str:
    if not seen.partition:
        return "no partition seen"
    rows, modified_at = _partition(seen)
    return f"partition of {rows} rows, modified {modified_at}"


def _number(number: float | None, form: str = ",") -> str:
    return "-" if number is None else format(number, form)
