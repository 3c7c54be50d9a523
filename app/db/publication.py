"""Reads the current publication, and announces each publish to all processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import cache, lru_cache

import asyncpg
from pydantic import TypeAdapter
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.addresses import DatabaseAddress
from app.db.connection import open_connection
from app.db.driver_errors import connecting, querying
from app.db.sql import load_sql
from app.db.statements import Queryable, Statement, fetch
from app.db.tables import TRIGRAM_INDEX, ingested_days, publication, stored_months
from app.domain.downloads import Publication, served_days
from app.domain.events import CountedFiles
from app.domain.months import StoredMonth
from app.settings import IngestSource

_MONTHS = TypeAdapter(tuple[StoredMonth, ...])

CHANNEL = "pypi_stats_published"

LISTENER_TIMEOUT_SECONDS = 3.0
"""Timeout of the listener's query. After it, the listener opens another connection."""


async def announce(connection: AsyncConnection) -> None:
    """Record the time of a publish, and wake all listeners when the caller's transaction commits.

    Call it last in the transaction, because the publish becomes visible with the commit. Publishes
    get times that are at least a second apart, because `Last-Modified` has whole seconds and the
    clock may be set back. The time is also recorded with the days and months that changed.
    """
    recorded = insert(publication).values(id=1, published_at=func.clock_timestamp())
    after_the_last = publication.c.published_at + timedelta(seconds=1)
    await connection.execute(
        recorded.on_conflict_do_update(
            index_elements=[publication.c.id],
            set_={"published_at": func.greatest(recorded.excluded.published_at, after_the_last)},
        )
    )
    for table in (ingested_days, stored_months):
        changed = update(table).where(table.c.announced_at.is_(None))
        publish = select(publication.c.published_at).scalar_subquery()
        await connection.execute(changed.values(announced_at=publish))
    await connection.execute(select(func.pg_notify(CHANNEL, "")))


class PublicationListener:
    """A connection outside the pool that receives announcements of publishes."""

    def __init__(self, connection: asyncpg.Connection, retention_days: int) -> None:
        self._connection = connection
        self._retention_days = retention_days
        self._woken = asyncio.Event()

    async def listen(self) -> None:
        # A standby server sends no announcements, so only checks find publishes.
        with suppress(asyncpg.ReadOnlySQLTransactionError):
            await self._connection.add_listener(CHANNEL, lambda *_: self._woken.set())
        self._connection.add_termination_listener(lambda _: self._woken.set())

    async def wait(self, seconds: float) -> None:
        """Wait for an announcement or the end of the connection, up to `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    async def current(self) -> Publication | None:
        """Return the current publication, or None if nothing is published."""
        return await current_publication(self._connection, self._retention_days)


@asynccontextmanager
async def publication_listener(
    database_url: str, retention_days: int
) -> AsyncIterator[PublicationListener]:
    """Yield a listener that receives every announcement from now on.

    Raises `DatabaseUnavailableError` if it can't connect or loses its connection.
    """
    address = DatabaseAddress.parse(database_url)
    with connecting(str(address)):
        connection = await open_connection(
            address, statement_timeout_seconds=LISTENER_TIMEOUT_SECONDS
        )
    try:
        with querying(str(address)):
            listener = PublicationListener(connection, retention_days)
            await listener.listen()
            yield listener
    finally:
        connection.terminate()


@lru_cache(maxsize=2)
def _parse_months(records: str) -> tuple[StoredMonth, ...]:
    """Parse the records of stored months, a megabyte after some years. Nearly all checks find the
    same text as before.
    """
    return _MONTHS.validate_json(records)


@cache
def _statement(retention_days: int) -> Statement:
    query = load_sql(
        "current_publication",
        trigram_index=TRIGRAM_INDEX,
        sample=IngestSource.SAMPLE,
        retention_days=retention_days,
    )
    return Statement(text(query))


async def current_publication(source: Queryable, retention_days: int) -> Publication | None:
    """Return the current publication, or None if nothing is published."""
    (row,) = await fetch(source, _statement(retention_days))
    days = row["days"]
    if not days or row["published_at"] is None:
        return None
    return Publication(
        days=tuple(days),
        breakdowns=frozenset(row["breakdowns"].split()),
        counted_files=dict(zip(days, map(CountedFiles, row["counted_files"]), strict=True)),
        window=served_days(days[-1], retention_days),
        months=_parse_months(row["months"]),
        earlier_days=tuple(row["earlier_days"] or ()),
        published_at=row["published_at"],
        version=f"{row['digest']}{' trigrams' if row['has_trigrams'] else ''}",
        held_days=row["held_days"],
        suspect_days=row["suspect_days"],
        has_trigrams=row["has_trigrams"],
        is_sample=row["is_sample"],
        followed=None if row["followed"] is None else tuple(row["followed"].split()),
    )
