"""Compares recorded figures with the stored rows, in the transaction of the caller.

Each comparison is one statement that returns the differences.
"""

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.day_digest import figures_query
from app.db.package_figures import (
    TOP_OF_MONTHS,
    TOP_PACKAGES,
    TRENDING_PACKAGES,
    figures_arguments,
)
from app.db.partitions import partition_months
from app.db.repositories.months_repository import MonthsRepository
from app.db.sql import load_sql
from app.db.tables import ingested_days
from app.domain.breakdowns import BREAKDOWN_COLUMNS, COLUMNS_OF_ONE_PACKAGE
from app.domain.months import StoredMonth
from app.domain.package_name import ALL_PACKAGES


class Difference(NamedTuple):
    """A recorded figure of a day, or of several packages, that differs from the rows."""

    day: date
    what: str
    recorded: str
    found: str
    packages: int | None
    """Number of packages with this difference, or None for a figure of the day itself."""

    example: str | None
    """One of these packages, with these figures."""

    def __str__(self) -> str:
        package = f" for {self.example}" if self.example else ""
        others = f"; {self.packages:,} packages differ" if (self.packages or 0) > 1 else ""
        return (
            f"{self.day} {self.what}: recorded {self.recorded}, found {self.found}{package}{others}"
        )


_TOTAL_SUMS = [
    load_sql("verify_sums", what=f"'{count}'", downloads=count, rows="stored")
    for count in ("with_mirrors", "without_mirrors")
]
_CATEGORIES = {column: load_sql("categories", column=column) for column in BREAKDOWN_COLUMNS}
_SUMS = [
    *_TOTAL_SUMS,
    *(
        load_sql(
            "verify_sums",
            what=f"'{column} ' || category",
            downloads="downloads",
            rows=f"stored CROSS JOIN LATERAL ({categories}) AS categories",
        )
        for column, categories in _CATEGORIES.items()
        if column not in COLUMNS_OF_ONE_PACKAGE
    ),
]
# The sum of a breakdown that was not ingested is NULL, not zero.
_ROW_SUMS = ", ".join(
    f"('{column}', CASE WHEN {column} IS NOT NULL THEN"
    f" (SELECT coalesce(sum(downloads), 0) FROM ({categories}) AS of_a_row) END)"
    for column, categories in _CATEGORIES.items()
)

_ONE_OF_MANY = load_sql("one_of_many")

_DAY = load_sql(
    "verify_day",
    columns=", ".join(BREAKDOWN_COLUMNS),
    row_sums=_ROW_SUMS,
    description=figures_query("of_packages"),
    all_packages_sums=" UNION ALL ".join(_SUMS),
    one_of_many=_ONE_OF_MANY,
)
_MONTH = load_sql(
    "verify_month", all_packages_sums=" UNION ALL ".join(_TOTAL_SUMS), one_of_many=_ONE_OF_MANY
)
_RECENT = load_sql("verify_recent", sum_figures=load_sql("sum_figures"), one_of_many=_ONE_OF_MANY)
_RANKS = load_sql("verify_ranks", one_of_many=_ONE_OF_MANY)
_RANKINGS = load_sql(
    "verify_rankings",
    top_packages=TOP_PACKAGES,
    top_of_months=TOP_OF_MONTHS,
    trending_packages=TRENDING_PACKAGES,
)
_LAST_SEEN = load_sql("verify_last_seen", one_of_many=_ONE_OF_MANY)

_LEFT_OVER = load_sql("verify_left_over")
_MONTHS_LEFT_OVER = load_sql("verify_months_left_over")


class VerificationRepository:
    """Works on one connection, whose transaction sees one state of the database."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def published_days(self) -> list[date]:
        """Return all published days, oldest first, including those before the days served."""
        days = await self._connection.scalars(select(ingested_days.c.day).order_by("day"))
        return list(days)

    async def partition_months(self) -> list[tuple[date, date]]:
        return await partition_months(self._connection)

    async def differences_of_day(self, day: date) -> list[Difference]:
        """Compare a day's rows with its record, with the row of `__all__`, and with each other."""
        return await self._differences(_DAY, {"day": day, "all_packages": ALL_PACKAGES})

    async def differences_of_month(self, record: StoredMonth) -> list[Difference]:
        """Compare a month's rows with its record, the row of `__all__`, and their ranks."""
        found = await MonthsRepository(self._connection).figures_of_stored(record)
        values = [
            (name, str(getattr(record, name)), str(getattr(found, name)))
            for name in ("digest", "packages", "downloads", "downloads_with_mirrors")
        ]
        arguments = {"month": record.month, "all_packages": ALL_PACKAGES}
        return [
            *(
                Difference(record.month, f"{name} of the month", recorded, value, None, None)
                for name, recorded, value in values
                if recorded != value
            ),
            *await self._differences(_MONTH, arguments),
        ]

    async def differences_of_months(self) -> list[Difference]:
        """Return the months that have rows but no record."""
        return await self._differences(_MONTHS_LEFT_OVER, {})

    async def differences_of_figures(self) -> list[Difference]:
        """Compare figures of packages with the rows, and ranks and rankings with the figures."""
        latest = await self._connection.scalar(select(func.max(ingested_days.c.day)))
        if latest is None:
            return []
        arguments = figures_arguments(latest)
        return [
            difference
            for query in (_RECENT, _RANKS, _RANKINGS)
            for difference in await self._differences(query, arguments)
        ]

    async def differences_of_last_seen(self) -> list[Difference]:
        """Compare `last_seen` of packages with their rows. A package without rows differs, too."""
        return await self._differences(_LAST_SEEN, {})

    async def left_over(self, month: tuple[date, date]) -> list[Difference]:
        """Return the days of a month that have rows but are not published."""
        first, following = month
        return await self._differences(_LEFT_OVER, {"first": first, "next": following})

    async def _differences(self, query: str, arguments: Mapping[str, object]) -> list[Difference]:
        return [Difference(*row) for row in await self._connection.execute(text(query), arguments)]
