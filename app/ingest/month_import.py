"""Imports past months from a source, which counts a month by one query or has it in a file."""

import asyncio
from dataclasses import asdict, dataclass
from datetime import date, datetime

from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.db.repositories.months_repository import MonthsRepository, staged_line
from app.db.steps import Step, enter
from app.domain.downloads import served_days
from app.domain.months import (
    Month,
    StoredMonth,
    days_of,
    month_of,
    months_before,
    months_between,
)
from app.errors import IngestError, MixedDataError
from app.ingest.month_rows import MonthPacking
from app.ingest.pipeline import IngestProgress, stage
from app.ingest.plan import FIRST_DAY, latest_complete_day
from app.ingest.policy import PublishPolicy
from app.ingest.publish import PublishContext, check_scope
from app.ingest.rollup import Published, Stored, first_kept_month, store_month
from app.ingest.sources.source import Source
from app.interpreter import short_switch_interval
from app.settings import IngestSource


@dataclass(frozen=True, slots=True)
class MonthPlan:
    """Months to import, and those that need no import."""

    to_import: list[Month]
    """Latest first."""

    of_days: list[Month]
    """Months that are rolled up from the days in the database, or will be."""

    stored: list[Month]


def plan_months(
    span: tuple[Month, Month],
    published: Published,
    stored: Stored,
    *,
    now: datetime,
    policy: PublishPolicy,
    again: bool = False,
) -> MonthPlan:
    """Decide which of the months of a span, both ends included, to import.

    Stored months are imported only with `again`, unless they were rolled up from a part of their
    days, or lack a followed package. Raises an `IngestError` if a month is not over, is before
    PyPI's table, or would not be kept.
    """
    latest = max(published, default=latest_complete_day(now))
    first_served = served_days(latest, policy.retention_days).first
    for month in span:
        _check_storable(month, latest, now, policy)
    plan = MonthPlan([], [], [])
    names = (policy.followed or "").split()
    alike = {day for day, one in published.items() if policy.follows_alike(one)}
    for month in months_between(*span):
        record = stored.get(month.first)
        is_part = record and ((record.days_digest and record.missing_days) or not record.has(names))
        if month.first >= first_served or all(day in alike for day in days_of(month)):
            plan.of_days.append(month)
        elif record and not is_part and not again:
            plan.stored.append(month)
        else:
            plan.to_import.append(month)
    return plan


def _check_storable(month: Month, latest: date, now: datetime, policy: PublishPolicy) -> None:
    first, last = Month(FIRST_DAY), Month(months_before(month_of(now.date()), 1))
    if not first <= month <= last:
        raise IngestError(
            f"{month} can't be imported: the first month is {first}, and the latest complete one "
            f"is {last}"
        )
    first_kept = first_kept_month(latest, policy)
    if month.first < first_kept:
        raise IngestError(
            f"{month} would be deleted again: KEEP_MONTHS={policy.keep_months} keeps the months "
            f"from {Month(first_kept)} on"
        )


async def import_month(
    context: PublishContext, source: Source, month: Month, progress: IngestProgress | None = None
) -> StoredMonth:
    """Store a month, and replace it if it was stored before.

    The whole month becomes visible at once, or nothing if an exception is raised. Raises an
    `IngestError`, also if a row is wrong.
    """
    progress = progress or IngestProgress()
    async with connect(context.engine) as connection:
        days, months = IngestRepository(connection), MonthsRepository(connection)
        origin, coverage = await source.origin(month), source.coverage(month)
        # Check before the source bills anything. The check is repeated under the publish lock.
        _check_admissible(await days.published(), origin, context.policy.followed)
        await connection.commit()
        with short_switch_interval():
            rejected, reading = await stage(context, days, source, month, progress)
            columns = reading.columns
            if reason := rejected.describe_counts():
                raise IngestError(f"{month} was not stored: {reason}", rejected.fault_kind)
            await months.begin_staging()
            packing: MonthPacking | None = None
            async for rows in months.counts_of_read(columns):
                enter(Step.SUM, month)
                if packing is None:
                    # A month of followed packages may have no rows.
                    totals = rows[0][3:] if rows else [None] * len(columns)
                    packing = MonthPacking.of(dict(zip(columns, totals, strict=True)))
                if context.lock:
                    context.lock.check()
                packed = await asyncio.to_thread(packing.rows, rows)
                await months.stage(list(map(staged_line, packed)))
        assert packing
        figures = asdict(await months.figures_of_staged(packing.categories))
        await connection.commit()
        record = StoredMonth(
            **{**figures, "breakdowns": columns},
            month=month.first,
            days=len(days_of(month)) - len(coverage.missing_days),
            missing_days=coverage.missing_days,
            source=origin,
            counted_files=coverage.counted_files,
            categories=packing.categories,
            followed=context.policy.followed,
            rolled_up_at=context.clock(),
        )

        def is_admissible(published: Published, _: Stored) -> bool:
            _check_admissible(published, origin, context.policy.followed)
            return True

        await store_month(context, connection, record, is_admissible)
        return record


def check_has_days(published: Published) -> None:
    """Raise unless a day is published. The published days decide which months are served from days,
    and which are kept.
    """
    if not published:
        raise IngestError(
            "no day is published yet, and months are imported beside published days: "
            "run `pypi-stats backfill` without --months first"
        )


def _check_admissible(published: Published, origin: str, followed: str | None) -> None:
    check_has_days(published)
    check_scope(published.values(), followed)
    holds_sample = any(one.source == IngestSource.SAMPLE for one in published.values())
    if holds_sample != (origin == IngestSource.SAMPLE):
        held, other = ("sample", "real") if holds_sample else ("real", "sample")
        raise MixedDataError(
            f"the database holds {held} data, which is never mixed with {other} data"
            + (
                ": `pypi-stats ingest --replace-sample` deletes the sample as it publishes a day"
                if holds_sample
                else ": use another database for the sample"
            )
        )
