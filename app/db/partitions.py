"""Names, creates and drops the monthly partitions of `daily_downloads`.

A new partition is created as a table and then attached, which does not block queries. Dropping one
locks the whole table for a moment, and fails after `LOCK_TIMEOUT_MILLISECONDS` if a reader uses the
table.
"""

import re
from datetime import date

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.driver_errors import waited_for_lock
from app.errors import TableInUseError

LOCK_TIMEOUT_MILLISECONDS = 100
"""How long a drop waits for readers. New readers have to wait as long."""

VACUUMED_SHARE = 0.02
"""Share of new rows after which a partition is vacuumed. A day has a larger share, so each publish
causes a vacuum. Index-only scans need a vacuum, which marks pages as visible to all transactions.
"""


def is_partition(table: str) -> bool:
    return re.fullmatch(r"daily_downloads_\d{4}_\d{2}", table) is not None


def _month(partition: str) -> tuple[date, date]:
    """Return the first day of a partition's month and of the month after it."""
    year, month = map(int, partition.split("_")[-2:])
    return date(year, month, 1), date(year + month // 12, month % 12 + 1, 1)


async def ensure_partition(connection: AsyncConnection, day: date) -> None:
    """Create the partition of a day's month if it does not exist.

    It runs in the caller's transaction. The caller holds the publish lock.
    """
    partition = f"daily_downloads_{day:%Y_%m}"
    if partition in await _partitions(connection):
        return
    start, end = _month(partition)
    create = f"CREATE TABLE {partition} (LIKE daily_downloads INCLUDING ALL)"
    options = f"WITH (autovacuum_vacuum_insert_scale_factor = {VACUUMED_SHARE})"
    await connection.execute(text(f"{create} {options}"))
    attach = f"ALTER TABLE daily_downloads ATTACH PARTITION {partition}"
    await connection.execute(text(f"{attach} FOR VALUES FROM ('{start}') TO ('{end}')"))


async def first_kept_day(connection: AsyncConnection, first_day: date) -> date | None:
    """Return the first day that `drop_partitions_before` leaves, or None if it leaves none."""
    months = await partition_months(connection)
    return next((start for start, end in months if end > first_day), None)


async def partition_months(connection: AsyncConnection) -> list[tuple[date, date]]:
    """Return the first day of each partition's month and of the month after it, oldest first."""
    return [_month(partition) for partition in await _partitions(connection)]


async def drop_partitions_before(connection: AsyncConnection, first_day: date) -> list[str]:
    """Drop all partitions that end before `first_day`, in the caller's transaction. Return their
    names. Readers wait until the transaction ends. Raises `TableInUseError` if readers use the
    table.
    """
    dropped = [name for name in await _partitions(connection) if _month(name)[1] <= first_day]
    await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}"))
    try:
        for partition in dropped:
            await connection.execute(text(f"DROP TABLE {partition}"))
    except DBAPIError as error:
        if waited_for_lock(error):
            raise TableInUseError(
                "retention: long transactions kept daily_downloads in use, so nothing was dropped; "
                "try again later"
            ) from error
        raise
    await connection.execute(text("SET LOCAL lock_timeout = DEFAULT"))
    return dropped


async def _partitions(connection: AsyncConnection) -> list[str]:
    """Return the names of the partitions, oldest first."""
    names = await connection.scalars(
        text(
            "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
            "WHERE inhparent = CAST('daily_downloads' AS regclass) AND relkind = 'r' "
            "ORDER BY relname"
        )
    )
    return list(names)
