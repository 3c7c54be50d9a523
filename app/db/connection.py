"""Opens connections to Postgres, for the pool of reads, the engines of jobs, and the listener."""

from collections.abc import Mapping
from typing import Any

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import URL, make_url

from app.setting_types import LIBPQ_ONLY_ARGUMENTS

# SQLAlchemy does not type this constructor.
DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]

CONNECT_TIMEOUT_SECONDS = 5

CLOSE_TIMEOUT_SECONDS = 3
"""How long to wait for a rollback, the release of a lock, or the end of connections. After that the
connection is dropped, and Postgres rolls back and releases locks by itself.
"""

KEEPALIVES = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""The server notices within a minute that a client's machine is gone, and frees its locks."""


def asyncpg_url(database_url: str) -> URL:
    """Return the URL in the form that SQLAlchemy's asyncpg dialect takes.

    Hosting providers hand out `postgres://` and libpq's arguments. `sslmode` has another name here,
    and arguments for the C driver alone are dropped.
    """
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    query = {name: value for name, value in url.query.items() if name not in LIBPQ_ONLY_ARGUMENTS}
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    return url.set(query=query)


def database_name(url: URL) -> str:
    """Return how error messages name the database."""
    return f"the database at {url.host or url.query.get('host')}"


async def open_connection(
    url: URL,
    *,
    statement_timeout_seconds: float,
    session: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """Open a connection with these session parameters and options of asyncpg.

    Session parameters are set after connecting, since poolers such as PgBouncer refuse unknown
    startup parameters.
    """
    # SQLAlchemy does not type this method.
    _, arguments = DIALECT.create_connect_args(url)  # type: ignore[no-untyped-call]
    connection = await asyncpg.connect(
        **arguments,
        **options,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=statement_timeout_seconds,
    )
    parameters = KEEPALIVES | dict(session or {})
    try:
        await connection.execute(
            "; ".join(f"SET {name} = '{value}'" for name, value in parameters.items())
        )
    except BaseException:
        connection.terminate()
        raise
    return connection
