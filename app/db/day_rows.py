"""Converts staged rows to a day's published rows, in the transaction of the caller.

The caller holds the publish lock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta

import asyncpg
from sqlalchemy import delete, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.package_figures import rewrite_rankings, update_figures
from app.db.sql import load_sql
from app.db.steps import Step, enter
from app.db.tables import daily_downloads, ingested_days
from app.domain.breakdowns import BREAKDOWN_COLUMNS, COLUMNS_OF_ONE_PACKAGE
from app.domain.months import Period
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import MONTH_DAYS
from app.errors import IngestError

STAGED_COLUMNS = ", ".join(["with_mirrors", "without_mirrors", *BREAKDOWN_COLUMNS])
"""Columns of staged rows, without the name."""


async def stage_all_packages(connection: AsyncConnection) -> None:
    """Stage the row of `__all__`. A breakdown that was not ingested is NULL there, too."""
    sums = ", ".join(
        "NULL" if column in COLUMNS_OF_ONE_PACKAGE else load_sql("sum_of_breakdown", column=column)
        for column in BREAKDOWN_COLUMNS
    )
    await connection.execute(
        text(
            f"INSERT INTO staged_downloads (name, {STAGED_COLUMNS}) "
            f"SELECT :name, sum(with_mirrors), sum(without_mirrors), {sums} FROM staged_downloads "
            # A day of followed packages may have no rows.
            "HAVING count(*) > 0"
        ),
        {"name": ALL_PACKAGES},
    )


@contextmanager
def repeated_packages_refused(period: Period) -> Iterator[None]:
    """Translate the error of an insert that adds two rows of a package. Raises `IngestError`."""
    try:
        yield
    except IntegrityError as error:
        if isinstance(error.orig and error.orig.__cause__, asyncpg.UniqueViolationError):
            raise IngestError(f"the source gave a package more than once for {period}") from error
        raise


async def replace_rows(connection: AsyncConnection, day: date) -> None:
    """Replace the day's rows by the staged ones. The partition of its month has to exist."""
    replaced = await connection.scalar(
        select(ingested_days.c.day).where(ingested_days.c.day == day)
    )
    if replaced:
        enter(Step.REPLACE, day)
        await connection.execute(delete(daily_downloads).where(daily_downloads.c.date == day))
    enter(Step.NEW_PACKAGES, day)
    # Insert only new names, because ON CONFLICT would use up an id for each known name every day.
    # A day's rows are stored in the order of ids. The most downloaded packages get the lowest ids,
    # so that the rows that are read most are stored together.
    await connection.execute(
        text(
            "INSERT INTO packages (name, last_seen) "
            "SELECT name, CAST(:day AS date) FROM staged_downloads AS staged "
            "WHERE NOT EXISTS (SELECT FROM packages WHERE packages.name = staged.name) "
            "GROUP BY name ORDER BY max(without_mirrors) DESC, name"
        ),
        {"day": day},
    )
    enter(Step.ROWS, day)
    # Insert rows in the order of the primary key, so that its index only grows at the end.
    with repeated_packages_refused(day):
        await connection.execute(
            text(
                f"INSERT INTO daily_downloads (package_id, date, {STAGED_COLUMNS}) "
                f"SELECT packages.id, :day, {STAGED_COLUMNS} "
                "FROM staged_downloads JOIN packages USING (name) ORDER BY packages.id"
            ),
            {"day": day},
        )
    if replaced:
        await connection.execute(text(load_sql("correct_last_seen")), {"day": day})


async def update_packages(
    connection: AsyncConnection, day: date, latest_before: date | None
) -> None:
    """Update `last_seen`, the figures of packages and the rankings.

    If the day follows the latest one, all periods are moved by a day. Otherwise they are summed
    again, but a day before all periods changes only `last_seen`.
    """
    if latest_before and day <= latest_before - timedelta(days=MONTH_DAYS):
        await connection.execute(
            text(
                "UPDATE packages SET last_seen = :day FROM staged_downloads AS staged "
                "WHERE packages.name = staged.name "
                "AND coalesce(packages.last_seen, '-infinity') < :day"
            ),
            {"day": day},
        )
        return
    latest = max(day, latest_before or day)
    is_next = latest_before is not None and day == latest_before + timedelta(days=1)
    await update_figures(connection, latest, is_next=is_next)
    enter(Step.RANK, day)
    await rewrite_rankings(connection, latest)
