"""Reads whole days for dumps."""

from collections.abc import AsyncIterator, Sequence
from datetime import date

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import daily_downloads, ingested_days, packages
from app.domain.downloads import PackageDownloads, PublishedDay
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

    async def rows(
        self, day: date, breakdowns: Sequence[str]
    ) -> AsyncIterator[Sequence[PackageDownloads]]:
        """Yield the day's packages in batches, ordered by name, with these columns."""
        # All rows are read. By default, Postgres optimises a cursor for its first rows.
        await self._connection.execute(text("SET LOCAL cursor_tuple_fraction = 1"))
        query = (
            select(
                packages.c.name,
                daily_downloads.c.with_mirrors,
                daily_downloads.c.without_mirrors,
                *(daily_downloads.c[column] for column in breakdowns),
            )
            .join(packages, packages.c.id == daily_downloads.c.package_id)
            .where(daily_downloads.c.date == day, packages.c.name != ALL_PACKAGES)
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
                    dict(zip(breakdowns, counts, strict=True)),
                )
                for name, with_mirrors, without_mirrors, *counts in fetched
            ]
