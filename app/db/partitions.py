"""The monthly partitions of `daily_downloads`: naming, making and dropping them.

Readers are never in the way: attaching and detaching concurrently take a lock on the table that
queries do not wait for, where creating a partition in place would lock them out.
"""

import re
from datetime import date

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_DETACH = "ALTER TABLE daily_downloads DETACH PARTITION {} CONCURRENTLY"
_FINALIZE = "ALTER TABLE daily_downloads DETACH PARTITION {} FINALIZE"

_NAME = re.compile(r"daily_downloads_(\d{4})_(\d{2})")


def is_partition(table: str) -> bool:
    return _NAME.fullmatch(table) is not None


def _name(day: date) -> str:
    return f"daily_downloads_{day:%Y_%m}"


def _month(partition: str) -> tuple[date, date]:
    """The first day of a partition's month and of the month after it."""
    match = _NAME.fullmatch(partition)
    assert match, partition
    year, month = int(match[1]), int(match[2])
    return date(year, month, 1), date(year + month // 12, month % 12 + 1, 1)


async def ensure_partition(connection: AsyncConnection, day: date) -> bool:
    """Make the partition of a day's month where it is not there; True when it was made.

    In the transaction of the caller, who holds the publish lock: two can't make the same one.
    """
    partition = _name(day)
    state = dict(await _partitions(connection)).get(partition)
    if state == "attached":
        return False
    # What was left by a retention that was killed: the month was on its way out.
    if state == "detaching":
        await connection.execute(text(_FINALIZE.format(partition)))
    await connection.execute(text(f"DROP TABLE IF EXISTS {partition}"))
    start, end = _month(partition)
    await connection.execute(text(f"CREATE TABLE {partition} (LIKE daily_downloads INCLUDING ALL)"))
    await connection.execute(
        text(
            f"ALTER TABLE daily_downloads ATTACH PARTITION {partition} "
            f"FOR VALUES FROM ('{start}') TO ('{end}')"
        )
    )
    return True


async def first_held_day(connection: AsyncConnection) -> date | None:
    """The first day that the oldest partition could hold."""
    months = [_month(name)[0] for name, _ in await _partitions(connection)]
    return min(months, default=None)


async def drop_partitions_before(connection: AsyncConnection, first_day: date) -> list[str]:
    """Drop every partition that ends before `first_day`, and say which.

    The connection is in autocommit: Postgres detaches concurrently only outside a transaction.
    What was killed halfway is finished by the next call.
    """
    dropped = []
    for partition, state in await _partitions(connection):
        _, end = _month(partition)
        if end > first_day:
            continue
        if state == "attached":
            await connection.execute(text(_DETACH.format(partition)))
        elif state == "detaching":
            await connection.execute(text(_FINALIZE.format(partition)))
        await connection.execute(text(f"DROP TABLE {partition}"))
        dropped.append(partition)
    return dropped


async def _partitions(connection: AsyncConnection) -> list[tuple[str, str]]:
    """Names and states (attached, detaching, detached), oldest first."""
    rows = await connection.execute(
        text(
            "SELECT c.relname, CASE WHEN i.inhrelid IS NULL THEN 'detached'"
            " WHEN i.inhdetachpending THEN 'detaching' ELSE 'attached' END "
            "FROM pg_class AS parent "
            "JOIN pg_class AS c ON c.relnamespace = parent.relnamespace AND c.relkind = 'r' "
            "LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid AND i.inhparent = parent.oid "
            "WHERE parent.oid = CAST('daily_downloads' AS regclass) "
            "AND c.relname LIKE 'daily\\_downloads\\_%' ORDER BY c.relname"
        )
    )
    return [(name, state) for name, state in rows if is_partition(name)]
