"""Locks that a migration takes while others serve and ingest."""

from alembic import op
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db.advisory_lock import LockKey

WRITERS_TIMEOUT_SECONDS = 120
"""A publish may be on its way, or a vacuum, which Postgres ends when somebody has waited for it for
a second. Nobody who reads waits behind these locks.
"""

READERS_TIMEOUT_MILLISECONDS = 200
"""For each table. Shorter than the second after which Postgres looks for deadlocks: whoever reads
and locks in another order is let pass before that, and never ended.
"""

READERS_ATTEMPTS = 300
READERS_PAUSE_SECONDS = 1.0
"""For a long query or a vacuum to end, which has the tables in use. What was done before is kept
meanwhile.
"""

LOCK_NOT_AVAILABLE = "55P03"


def lock_publish() -> None:
    """No day is published, held or dropped until the migration ends."""
    _wait_for_writers(f"SELECT pg_advisory_xact_lock({int(LockKey.PUBLISH)})")


def lock_out_writers(table: str) -> None:
    """Nobody writes to the table or its parts, nor vacuums them, until the migration ends. To be
    had before anything is done that takes long, since what waits in vain undoes it.
    """
    _wait_for_writers(f"LOCK TABLE {table} IN SHARE MODE")


def _wait_for_writers(lock: str) -> None:
    timeout = op.get_bind().scalar(text("SELECT current_setting('lock_timeout')"))
    op.execute(f"SET LOCAL lock_timeout = '{WRITERS_TIMEOUT_SECONDS}s'")
    op.execute(lock)
    op.execute(f"SET LOCAL lock_timeout = '{timeout}'")


def lock_out_readers(*tables: str) -> None:
    """Lock all of the tables or none, in the order given: that in which a reader's query names
    them. What waits for this waits for the rest of the migration, which has to be short.
    """
    connection = op.get_bind()
    for attempts_left in reversed(range(READERS_ATTEMPTS)):
        try:
            with connection.begin_nested():
                op.execute(f"SET LOCAL lock_timeout = {READERS_TIMEOUT_MILLISECONDS}")
                op.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
        except DBAPIError as error:
            if not attempts_left or getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            op.execute(f"SELECT pg_sleep({READERS_PAUSE_SECONDS})")
        else:
            return
