"""Runs migrations, on the connection that `app.db.migrations` passes, or on the database of the
settings if the `alembic` command is used directly.
"""

import asyncio

from alembic import context
from sqlalchemy import Connection

from app.db.embedded import embedded_postgres
from app.db.engine import connect, job_engine
from app.db.partitions import is_partition
from app.db.tables import TRIGRAM_INDEX, metadata
from app.settings import load_settings


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        # No lock is held from one migration to the next. `app.db.migrations` commits each itself.
        transaction_per_migration=True,
        # Partitions depend on the data, and the trigram index depends on the server.
        include_name=lambda name, kind, _: (
            not (kind == "table" and is_partition(name or "")) and name != TRIGRAM_INDEX
        ),
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_at(database_url: str) -> None:
    async with job_engine(database_url) as engine, connect(engine) as connection:
        await connection.run_sync(run)
        await connection.commit()


passed_connection = context.config.attributes.get("connection")
if passed_connection is not None:
    run(passed_connection)
else:
    settings = load_settings()
    if settings.database_url:
        asyncio.run(run_at(settings.database_url.get_secret_value()))
    else:
        with embedded_postgres(settings.data_dir) as url:
            asyncio.run(run_at(url))
