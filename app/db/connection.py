"""Opens connections to Postgres: those of the read pool, of the engines, and of the listener."""

from collections.abc import Mapping
from typing import Any

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from app.addresses import DatabaseAddress

# SQLAlchemy declares no types for its constructor.
DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]

CLOSE_TIMEOUT_SECONDS = 3
"""Timeout for a rollback, the release of a lock, and the end of a connection. When it expires, the
connection is dropped, and Postgres rolls back by itself.
"""

KEEPALIVES = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""Session parameters with which the server detects within a minute that a client's machine has
failed, and releases its locks.
"""


LOCK_MONTHS = "LOCK TABLE ONLY daily_downloads IN ACCESS SHARE MODE"
"""First statement of a snapshot. It keeps a month from being dropped during the snapshot. Without
it, the rows could be gone while the snapshot still sees the record of their days.
"""


_OTHER_HOST = (asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
"""Errors after which the next host is tried."""


async def open_connection(
    address: DatabaseAddress,
    *,
    statement_timeout_seconds: float,
    session: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """Open a connection with these session parameters and options of asyncpg.

    Session parameters are set after connecting, because poolers such as PgBouncer refuse unknown
    startup parameters.
    """
    connection = await _connect(address, command_timeout=statement_timeout_seconds, **options)
    parameters = (KEEPALIVES | dict(session or {})).items()
    try:
        await connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in parameters))
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _connect(address: DatabaseAddress, **options: Any) -> Any:
    """Connect to the first host that can be reached and is of the requested kind.

    asyncpg can try several hosts by itself, but with one timeout for all of them. All arguments are
    passed, because asyncpg reads missing ones from variables such as PGPORT.
    """
    failure: Exception | None = None
    for attributes in address.session_attributes:
        for host, port in address.hosts:
            for tls in address.tls_attempts(host):
                try:
                    return await asyncpg.connect(
                        host=host,
                        port=port,
                        user=address.user,
                        password=address.password,
                        database=address.database,
                        ssl=tls or False,
                        direct_tls=False,
                        target_session_attrs=attributes,
                        gsslib="gssapi",
                        server_settings=address.startup_parameters,
                        timeout=address.connect_timeout_seconds,
                        **options,
                    )
                except asyncpg.InvalidPasswordError:
                    raise
                except asyncpg.InvalidAuthorizationSpecificationError as error:
                    # The server may require TLS, or refuse it, so make the next attempt.
                    failure = error
                except (TimeoutError, *_OTHER_HOST) as error:
                    failure = error
                    break
                except OSError as error:
                    failure = error
    assert failure
    raise failure
