"""Compares the stored figures with the rows from which they were computed.

Each step reads one snapshot in a transaction of its own. So a publish during the verification
causes no differences, and a statement that has to wait for readers waits for at most one step.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.engine import snapshot
from app.db.repositories.ingest_repository import IngestRepository
from app.db.repositories.months_repository import COLUMNS, MonthsRepository
from app.db.repositories.verification_repository import Difference, VerificationRepository
from app.domain.months import Period
from app.errors import DayNotPublishedError
from app.ingest.rollup import MonthOfDays, months_of, sums_of


@dataclass(frozen=True, slots=True)
class VerificationStep:
    period: Period | None
    """The day or month that was verified, or None for figures that span several days."""

    differences: Sequence[Difference]


async def days_to_verify(engine: AsyncEngine, day: date | None) -> list[date]:
    """Return all published days, oldest first, or only the given one.

    Raises `DayNotPublishedError` if the given day is not published.
    """
    async with _reading(engine) as repository:
        days = await repository.published_days()
    if day is None:
        return days
    if day not in days:
        raise DayNotPublishedError(day)
    return [day]


async def verify(
    engine: AsyncEngine, days: Sequence[date], *, packages: bool
) -> AsyncIterator[VerificationStep]:
    """Compare each day's rows with its record, and yield the differences.

    With `packages`, the months are also compared with their days, and the figures of packages with
    the rows of all days. A day that retention has dropped meanwhile is skipped.
    """
    for day in days:
        async with _reading(engine) as repository:
            if day not in await repository.published_days():
                continue
            differences = await repository.differences_of_day(day)
        yield VerificationStep(day, differences)
    if not packages:
        return
    async for verified in _verify_months(engine):
        yield verified
    async with _reading(engine) as repository:
        differences = await repository.differences_of_figures()
    yield VerificationStep(None, differences)
    async with _reading(engine) as repository:
        differences = await repository.differences_of_last_seen()
        months = await repository.partition_months()
    yield VerificationStep(None, differences)
    for month in months:
        async with _reading(engine) as repository:
            differences = await repository.left_over(month)
        yield VerificationStep(None, differences)


async def _verify_months(engine: AsyncEngine) -> AsyncIterator[VerificationStep]:
    """Compare each month's rows with its record, and with its days if they all exist."""
    async with snapshot(engine) as connection:
        months = sorted(await MonthsRepository(connection).stored())
        differences = await VerificationRepository(connection).differences_of_months()
    yield VerificationStep(None, differences)
    for month in months:
        async with snapshot(engine) as connection:
            record = (await MonthsRepository(connection).stored()).get(month)
            if record is None:
                continue
            repository = VerificationRepository(connection)
            differences = await repository.differences_of_month(record)
        differences += await _differences_of_sums(engine, month)
        yield VerificationStep(record.period, differences)


async def _differences_of_sums(engine: AsyncEngine, month: date) -> list[Difference]:
    """Compare a month's rows with the sums of its days. Return nothing if the days were dropped, or
    if they have changed since the roll-up, which the next ingest job repeats.
    """
    found: dict[str, Difference] = {}
    first_id, last_id = 1, 1
    while first_id <= last_id:
        async with snapshot(engine) as connection:
            days = await _days_of(connection, month)
            if days is None:
                return []
            sums = await sums_of(connection, days)
            last_id = sums.last_id
            ids = sums.step(first_id)
            expected = {row[0]: row for row in await sums.rows(*ids)}
            rows = await MonthsRepository(connection).rows(month, *ids)
            stored = {row[0]: row for row in rows}
        for name in sorted(map(str, expected.keys() | stored.keys())):
            recorded, summed = stored.get(name), expected.get(name)
            for place, column in enumerate(COLUMNS):
                one, other = (str(row[place] if row else None) for row in (recorded, summed))
                if one != other:
                    what = f"{column} of the month, summed"
                    before = found.get(what, Difference(month, what, one, other, 0, name))
                    found[what] = before._replace(packages=(before.packages or 0) + 1)
        first_id = ids[1] + 1
    return list(found.values())


async def _days_of(connection: AsyncConnection, month: date) -> MonthOfDays | None:
    """Return the days from which a stored month was summed, or None if it has others now."""
    record = (await MonthsRepository(connection).stored()).get(month)
    published = await IngestRepository(connection).published()
    days = next((one for one in months_of(published) if one.month == month), None)
    return days if record and days and days.digest == record.days_digest else None


@asynccontextmanager
async def _reading(engine: AsyncEngine) -> AsyncIterator[VerificationRepository]:
    async with snapshot(engine) as connection:
        yield VerificationRepository(connection)
