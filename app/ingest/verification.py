"""Compares the stored figures with the rows from which they were computed.

Each step reads one snapshot in a transaction of its own. So a publish during the verification
causes no differences, and a statement that has to wait for readers waits for at most one step.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import snapshot
from app.db.repositories.verification_repository import Difference, VerificationRepository
from app.errors import DayNotPublishedError


@dataclass(frozen=True, slots=True)
class VerificationStep:
    day: date | None
    """The day that was verified, or None for figures that span several days."""

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

    With `packages`, the figures of packages are also compared with the rows of all days. A day that
    retention has dropped meanwhile is skipped.
    """
    for day in days:
        async with _reading(engine) as repository:
            if day not in await repository.published_days():
                continue
            differences = await repository.differences_of_day(day)
        yield VerificationStep(day, differences)
    if not packages:
        return
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


@asynccontextmanager
async def _reading(engine: AsyncEngine) -> AsyncIterator[VerificationRepository]:
    async with snapshot(engine) as connection:
        yield VerificationRepository(connection)
