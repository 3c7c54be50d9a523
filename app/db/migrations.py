"""Migrates a database's schema to the one that this code needs."""

import logging
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.advisory_lock import LockKey, lock_for_transaction
from app.db.driver_errors import ended_by_server
from app.db.engine import connect
from app.db.statements import Queryable, Statement, fetch
from app.db.tables import TRIGRAM_INDEX
from app.errors import OperatorError
from app.retries import attempts

_APP = Path(__file__).parents[1]

ALEMBIC_INI = next(
    path for path in (_APP / "alembic.ini", _APP.parent / "alembic.ini") if path.exists()
)
"""Configuration of the migrations. In a checkout it is beside `app`. In the wheel it is inside
`app`, because a folder named `alembic` beside `app` would be merged with the library's.
"""

_HAS_REVISION = select(func.to_regclass("alembic_version").is_not(None))
_REVISION = text("SELECT max(version_num) FROM alembic_version")

log = logging.getLogger(__name__)


async def migrate(engine: AsyncEngine) -> None:
    """Run the missing migrations, each in a transaction of its own, so that another process can
    continue if this one is killed.

    If several processes start together, one migrates and the others wait. Servers may answer
    requests meanwhile, because a migration does its slow work before it takes locks, and is retried
    if it can't get a lock in time. Raises `OperatorError` if the database has a migration that this
    code does not have.
    """
    async with connect(engine) as connection:
        is_done = False
        while not is_done:
            async for attempt in attempts("migrating", ended_by_server):
                with attempt:
                    try:
                        await lock_for_transaction(connection, LockKey.MIGRATE)
                        await connection.execute(text("SET LOCAL lock_timeout = '1s'"))
                        is_done = await connection.run_sync(_upgrade)
                        await connection.commit()
                    except BaseException:
                        await connection.rollback()
                        raise


async def check_migrated(source: Queryable, *, accept_later: bool) -> None:
    """Raise `OperatorError` unless the database can be reached and has this code's last migration.

    `accept_later` accepts later migrations too. Servers use it, because old and new servers share
    the database during a rollout.
    """
    ((is_there,),) = await fetch(source, Statement(_HAS_REVISION))
    ((held,),) = await fetch(source, Statement(_REVISION)) if is_there else [(None,)]
    *missing, head = _revisions()
    if held and held not in (head, *missing) and not accept_later:
        raise _database_is_ahead(held)
    if held is None or held in missing:
        state = f"is at migration {held}" if held else "is empty"
        raise OperatorError(
            f"the database {state}, and migration {head} is needed: run `pypi-stats migrate`"
        )


def _database_is_ahead(held: str) -> OperatorError:
    return OperatorError(
        f"the database is at migration {held}, and this code knows only migrations "
        f"up to {_revisions()[-1]}: run the version that migrated the database, or a later one"
    )


@cache
def _revisions() -> list[str]:
    """Return the revisions of this code, latest last, from the names of the files."""
    files = (ALEMBIC_INI.parent / "alembic" / "versions").glob("*.py")
    return sorted(file.name.partition("_")[0] for file in files)


def _upgrade(connection: Connection) -> bool:
    """Run the next migration and return False. If none is left, index trigrams and return True."""
    known = _revisions()
    held = connection.scalar(_REVISION) if connection.scalar(_HAS_REVISION) else None
    if held and held not in known:
        raise _database_is_ahead(held)
    if held != known[-1]:
        # Import Alembic only if it is needed, because that takes a quarter of a second.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        config = Config(ALEMBIC_INI)
        config.attributes["connection"] = connection
        command.upgrade(config, "+1")
        return False
    _index_trigrams(connection)
    return True


def _index_trigrams(connection: Connection) -> None:
    """Index names by their trigrams if the server has pg_trgm and allows its use.

    This is not a migration, because a migration runs only once. If the extension is installed
    later, the next start creates the index.
    """
    is_there = select(func.to_regclass(TRIGRAM_INDEX))
    is_available = text("SELECT name FROM pg_available_extensions WHERE name = 'pg_trgm'")
    if connection.scalar(is_there) or not connection.execute(is_available).first():
        return
    try:
        with connection.begin_nested():
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
            # With fastupdate, every search would have to read the list of pending index entries.
            connection.execute(
                text(
                    f"CREATE INDEX {TRIGRAM_INDEX} ON packages USING gin (name gin_trgm_ops) "
                    "WITH (fastupdate = off) WHERE is_popular"
                )
            )
    except DBAPIError as error:
        if ended_by_server(error):
            raise
        reason = error.orig and error.orig.__cause__
        log.warning("search can't find misspelt names, because pg_trgm can't be used: %s", reason)


def add_breakdown(name: str) -> None:
    """Add the column of an optional breakdown to all tables, in a migration.

    The digests of days and months stay valid, because they omit NULLs. No row is rewritten.
    The locks are held for milliseconds. The migration is retried if it does not get them within a
    second, because of reads or a publish.
    """
    from alembic import op  # noqa: PLC0415 - slow to import

    # Exclude publishes, which use both tables, so that there can be no deadlock.
    op.execute(select(func.pg_advisory_xact_lock(int(LockKey.PUBLISH))))
    for table in ("daily_downloads", "held_downloads", "monthly_downloads"):
        # The first migrations run before there are months.
        op.execute(f"ALTER TABLE IF EXISTS {table} ADD COLUMN {name} JSON")
