"""Reads whole days and months for dumps."""

from collections.abc import AsyncIterator, Mapping, Sequence

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import (
    daily_downloads,
    ingested_days,
    monthly_downloads,
    packages,
    stored_months,
)
from app.domain.downloads import PackageDownloads, PublishedDay
from app.domain.months import Month, Period, StoredMonth, first_day, unpack
from app.domain.package_name import ALL_PACKAGES

FETCHED_ROWS = 2_000


class DumpRepository:
    """Works on one connection, whose transaction sees one state of the database."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def published_days(self) -> list[PublishedDay]:
        """Return all published days, latest first."""
        rows = await self._connection.execute(
            select(ingested_days).order_by(ingested_days.c.day.desc())
        )
        return [PublishedDay(**row) for row in rows.mappings()]

    async def stored_months(self) -> list[StoredMonth]:
        """Return all stored months, latest first."""
        rows = await self._connection.execute(
            select(stored_months).order_by(stored_months.c.month.desc())
        )
        return [StoredMonth(**row) for row in rows.mappings()]

    async def record(self, period: Period) -> PublishedDay | StoredMonth | None:
        """Return the record of a day or a month, or None if it is not stored."""
        is_month = isinstance(period, Month)
        key = stored_months.c.month if is_month else ingested_days.c.day
        rows = await self._connection.execute(select(key.table).where(key == first_day(period)))
        kind = StoredMonth if is_month else PublishedDay
        return next((kind(**row) for row in rows.mappings()), None)

    async def rows(
        self, figures: PublishedDay | StoredMonth, breakdowns: Sequence[str]
    ) -> AsyncIterator[Sequence[PackageDownloads]]:
        """Yield the packages of a day or month in batches, ordered by name, with these columns."""
        begin = daily_downloads.c.date
        categories: Mapping[str, Sequence[str]] = {}
        if isinstance(figures, StoredMonth):
            begin, categories = monthly_downloads.c.month, figures.categories
        table = begin.table
        # A day's counts are stored as objects, and need no categories.
        categories_of_columns = [categories.get(one, ()) for one in breakdowns]
        # All rows are read. By default, Postgres optimises a cursor for its first rows.
        await self._connection.execute(text("SET LOCAL cursor_tuple_fraction = 1"))
        query = (
            select(
                packages.c.name,
                table.c.with_mirrors,
                table.c.without_mirrors,
                *(table.c[column] for column in breakdowns),
            )
            .join(packages, packages.c.id == table.c.package_id)
            .where(begin == first_day(figures.period), packages.c.name != ALL_PACKAGES)
            # Sort by bytes, so that the order does not depend on the database's collation.
            .order_by(packages.c.name.collate("C"))
        )
        result = await self._connection.stream(query, execution_options={"yield_per": FETCHED_ROWS})
        async for fetched in result.partitions():
            yield [
                PackageDownloads(
                    name,
                    with_mirrors,
                    without_mirrors,
                    dict(zip(breakdowns, map(unpack, counts, categories_of_columns), strict=True)),
                )
                for name, with_mirrors, without_mirrors, *counts in fetched
            ]
