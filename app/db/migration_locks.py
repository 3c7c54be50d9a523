"""Locks that a migration takes while others serve and ingest."""

from alembic import op
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db.advisory_lock import LockKey

PUBLISH_TIMEOUT_SECONDS = 120
"""A publish may be on its way. Nobody who reads waits behind this lock."""

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
    timeout = op.get_bind().scalar(text("SELECT current_setting('lock_timeout')"))
    op.execute(f"SET LOCAL lock_timeout = '{PUBLISH_TIMEOUT_SECONDS}s'")
    op.execute(f"SELECT pg_advisory_xact_lock({int(LockKey.PUBLISH)})")
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
