"""What the command line shows of the database and of its ingests, as text for a terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from app.db.repositories.downloads_repository import Size
from app.domain.breakdowns import OPTIONAL_BREAKDOWNS
from app.domain.downloads import (
    RECENT_STATUS_DAYS,
    HeldDay,
    IngestRun,
    PartitionSeen,
    PublishedDay,
    gaps,
)
from app.ingest.plan import Cadence, check_again_at, read_again_at

PARTITION_HEAD = f"{'partition rows':>14}  {'modified':<20}"


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
    rows = {
        "source": ", ".join(sorted({day.source for day in days})),
        "days": f"{len(days)} of {cadence.retention_days}",
        "first day": str(days[0].day) if days else "",
        "latest day": str(latest.day) if latest else "",
        "published": _moment(latest.published_at) if latest else "",
        "gaps": ", ".join(_spans(gaps(days))),
        "breakdowns": ", ".join(_ingested(days)),
        "counted": ", ".join(_counted(days)),
        "packages": f"{size.packages:,}"
        + (f", {latest.packages:,} of them on the latest day" if latest else ""),
        "size": f"{size.size_bytes / 2**20:,.1f} MiB",
        "last run": f"{_moment(last_run.started_at)}: {last_run.day} {_outcome(last_run)}"
        if last_run
        else "",
        "next run": _moment(next_run) if next_run else "",
        "held": ", ".join(str(one.day) for one in held),
    }
    lines = [f"{name:<12} {value or 'none'}" for name, value in rows.items()]
    for one in held:
        again = _moment(read_again_at(cadence, one))
        lines.append(f"  {one.day} {one.reason}; read {one.readings} times, again from {again}")
    suspect = [(day, day.suspect_reason) for day in days if day.suspect_reason]
    lines.append(f"{'suspect':<12} {', '.join(str(day.day) for day, _ in suspect) or 'none'}")
    for day, reason in suspect:
        lines.append(f"  {day.day} {reason}; checked again from {_moment(check_again_at(day))}")
    if days:
        head = f"{'day':<10}  {'packages':>10}  {'downloads':>15}  {'published':<20}"
        lines += ["", f"{head}  {PARTITION_HEAD}".rstrip()]
    for day in days[: -RECENT_STATUS_DAYS - 1 : -1]:
        line = f"{day.day}  {day.packages:>10,}  {day.downloads:>15,}  {_moment(day.published_at)}"
        lines.append(f"{line}  {_partition(day)}".rstrip())
    return "\n".join(lines)


def history_report(runs: Sequence[IngestRun]) -> str:
    if not runs:
        return "no day has been ingested yet"
    head = f"{'start':<20}  {'day':<10}  {'source':<8}  {'seconds':>8}  {'rows':>9}"
    lines = [f"{head}  {'bytes billed':>16}  {PARTITION_HEAD}  outcome"]
    for run in runs:
        seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at else None
        lines.append(
            f"{_moment(run.started_at):<20}  {run.day}  {run.source:<8}  "
            f"{_or_dash(seconds, ',.1f'):>8}  {_or_dash(run.rows, ','):>9}  "
            f"{_or_dash(run.bytes_billed, ','):>16}  {_partition(run)}  {_outcome(run)}"
        )
    return "\n".join(lines)


def _ingested(days: Sequence[PublishedDay]) -> Iterator[str]:
    """The breakdowns that a setting chooses, and how many days have each."""
    for breakdown in OPTIONAL_BREAKDOWNS:
        count = sum(breakdown.column in day.breakdowns for day in days)
        if count:
            yield f"{breakdown.name} on {count} days"


def _counted(days: Sequence[PublishedDay]) -> Iterator[str]:
    """The rules by which files were counted, with the number of days if there are several."""
    counts = Counter(day.counted_files for day in days)
    for rule, count in sorted(counts.items()):
        yield str(rule) if len(counts) == 1 else f"{rule} on {count} days"


def _spans(days: Sequence[date]) -> Iterator[str]:
    """Days in order, those next to each other as one."""
    starts = [
        day for before, day in pairwise([date.min, *days]) if day - before > timedelta(days=1)
    ]
    ends = [day for day, after in pairwise([*days, date.max]) if after - day > timedelta(days=1)]
    for start, end in zip(starts, ends, strict=True):
        yield str(start) if start == end else f"{start} to {end}"


def _outcome(run: IngestRun) -> str:
    return f"{run.outcome}: {run.error}" if run.error else run.outcome


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _partition(seen: PartitionSeen) -> str:
    """The columns of `PARTITION_HEAD`."""
    partition = seen.partition
    rows, modified = (f"{partition.rows:,}", _moment(partition.modified_at)) if partition else "--"
    return f"{rows:>14}  {modified:<20}"


def _or_dash(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)
