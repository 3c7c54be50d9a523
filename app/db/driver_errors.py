"""Translates errors of the driver and of SQLAlchemy to those of this service."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.errors import DatabaseRefusedError, DatabaseUnavailableError

ENDED_BY_SERVER = {"40001", "40P01", "55P03", "57014", "57P01", "57P02", "57P03"}
"""SQLSTATEs of conflicts, lock timeouts, cancellations and shutdowns, which end a statement."""

LOCK_TIMEOUT = "55P03"
"""SQLSTATE of a statement that waited longer than `lock_timeout` for a lock."""

INSUFFICIENT_RESOURCES = "53"
"""SQLSTATE class for a full disk, exhausted memory, and too many connections."""

REFUSED = ("28", "3D", "42501")
"""Prefixes of the SQLSTATEs for a wrong user, password or database, and a missing permission."""

POOLED_PER_TRANSACTION = ("42P05", "26000")
"""SQLSTATEs of a prepared statement that already exists or no longer exists. They occur only if
several clients share a session.
"""

READ_ONLY = "25006"
"""SQLSTATE of a statement that would change a read-only database."""

LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # asyncpg raises it between the server's shutdown message and the end of the connection.
    asyncpg.InternalClientError,
)
"""Exceptions that asyncpg raises for a dead connection."""


def is_lost(error: BaseException | None) -> bool:
    """Return True if the error means that the connection is dead."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(
            _driver_error(error), asyncpg.InternalClientError
        )
    return isinstance(error, LOST)


def ended_by_server(error: BaseException) -> bool:
    """Return True if the server ended the statement but not the connection. It can be retried."""
    return (
        isinstance(error, DBAPIError)
        and not error.connection_invalidated
        and _is_temporary(error.orig)
    )


def waited_for_lock(error: DBAPIError) -> bool:
    """Return True if the server ended the statement because other transactions hold a lock."""
    return _sqlstate(error.orig) == LOCK_TIMEOUT


@contextmanager
def connecting(database: str) -> Iterator[None]:
    """Raise `DatabaseUnavailableError` if a connection can't be opened, or none is free."""
    try:
        yield
    except PoolTimeoutError as error:
        raise no_connection_free(database) from error
    except (OSError, asyncpg.PostgresError, DBAPIError, *LOST) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if _sqlstate(cause) in POOLED_PER_TRANSACTION:
            raise pooled_per_transaction(database) from error
        is_refused = _sqlstate(cause).startswith(REFUSED)
        kind = DatabaseRefusedError if is_refused else DatabaseUnavailableError
        reason = " ".join(str(cause).split()) or "it takes too long to answer"
        raise kind(f"{database} can't be reached: {reason}") from error


@contextmanager
def querying(database: str) -> Iterator[None]:
    """Raise `DatabaseUnavailableError` if a query fails for a reason other than its statement."""
    try:
        yield
    except (DBAPIError, TimeoutError, asyncpg.PostgresError, *LOST) as error:
        if _sqlstate(_driver_error(error)) in POOLED_PER_TRANSACTION:
            raise pooled_per_transaction(database) from error
        cause = _driver_error(error)
        if _sqlstate(cause) == READ_ONLY:
            # After a failover it may be writable again soon.
            raise DatabaseUnavailableError(read_only(database)) from error
        if isinstance(error, TimeoutError):
            reason = "takes too long to answer"
        elif is_lost(error):
            reason = "went away"
        elif _is_temporary(cause):
            # Postgres adds hints on separate lines.
            reason = f"cancelled the statement: {' '.join(str(cause).split())}"
        else:
            raise
        raise DatabaseUnavailableError(f"{database} {reason}") from error


def no_connection_free(database: str) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(f"{database} has no connection free")


def pooled_per_transaction(database: str) -> DatabaseRefusedError:
    return DatabaseRefusedError(
        f"{database} is behind a pooler in transaction mode, which lacks LISTEN, locks and "
        "parameters of a session, and prepared statements: set its pool_mode to session, or "
        "connect to Postgres itself"
    )


def read_only(database: str) -> str:
    """Return the message for a database that accepts no changes."""
    return (
        f"{database} is read-only, as a replica is: set INGEST_SOURCE=none to only serve, or "
        "DATABASE_URL to the primary"
    )


def _is_temporary(error: BaseException | None) -> bool:
    sqlstate = _sqlstate(error)
    return sqlstate in ENDED_BY_SERVER or sqlstate.startswith(INSUFFICIENT_RESOURCES)


def _sqlstate(error: BaseException | None) -> str:
    return getattr(error, "sqlstate", None) or ""


def _driver_error(error: BaseException) -> BaseException | None:
    """Return asyncpg's error from inside SQLAlchemy's wrappers."""
    return error.orig and error.orig.__cause__ if isinstance(error, DBAPIError) else error
