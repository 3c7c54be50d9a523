"""The monthly partitions of `daily_downloads`: naming, making and dropping them.

Readers do not wait. Attaching takes a lock that queries do not conflict with, while creating a
partition in place would lock them out. Dropping locks the whole table for a moment, and fails at
once if a reader holds it.
"""

import re
from datetime import date

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import TableInUseError

LOCK_TIMEOUT_MILLISECONDS = 100
"""How long a drop waits for readers, and so the most that new ones wait behind it."""

LOCK_NOT_AVAILABLE = "55P03"

VACUUMED_SHARE = 0.02
"""Share of a month's rows after which it is vacuumed. A day is more, so each is vacuumed after its
publish. An index-only scan needs pages that a vacuum has marked as visible to all.
"""

_NAME = re.compile(r"daily_downloads_(\d{4})_(\d{2})")


def is_partition(table: str) -> bool:
    return _NAME.fullmatch(table) is not None


def _name(day: date) -> str:
    return f"daily_downloads_{day:%Y_%m}"


def _month(partition: str) -> tuple[date, date]:
    """Return the first day of a partition's month and of the month after it."""
    match = _NAME.fullmatch(partition)
    assert match, partition
    year, month = int(match[1]), int(match[2])
    return date(year, month, 1), date(year + month // 12, month % 12 + 1, 1)


async def ensure_partition(connection: AsyncConnection, day: date) -> None:
    """Create the partition of a day's month if it does not exist.

    It runs in the transaction of the caller, who holds the publish lock.
    """
    partition = _name(day)
    if partition in await _partitions(connection):
        return
    start, end = _month(partition)
    await connection.execute(
        text(
            f"CREATE TABLE {partition} (LIKE daily_downloads INCLUDING ALL) "
            f"WITH (autovacuum_vacuum_insert_scale_factor = {VACUUMED_SHARE})"
        )
    )
    await connection.execute(
        text(
            f"ALTER TABLE daily_downloads ATTACH PARTITION {partition} "
            f"FOR VALUES FROM ('{start}') TO ('{end}')"
        )
    )


async def first_kept_day(connection: AsyncConnection, first_day: date) -> date | None:
    """Return the first day that can have rows once all partitions that end before `first_day` are
    dropped; None if that is all of them.
    """
    months = await stored_months(connection)
    return next((start for start, end in months if end > first_day), None)


async def stored_months(connection: AsyncConnection) -> list[tuple[date, date]]:
    """Return the first day of each partition's month and of the month after it, oldest first."""
    return [_month(partition) for partition in await _partitions(connection)]


async def drop_partitions_before(connection: AsyncConnection, first_day: date) -> list[str]:
    """Drop every partition that ends before `first_day`, and say which, in the transaction of the
    caller, at whose end readers can go on. Raises `TableInUseError` when one keeps it from that.
    """
    dropped = [name for name in await _partitions(connection) if _month(name)[1] <= first_day]
    await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}"))
    try:
        for partition in dropped:
            await connection.execute(text(f"DROP TABLE {partition}"))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        raise TableInUseError from error
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
