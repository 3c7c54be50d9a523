"""Runs migrations: on the connection that `app.db.migrations` hands over, or from the settings when
the `alembic` command is used by hand.
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
        # No lock is kept from one to the next. Who hands a connection over sees to that.
        transaction_per_migration=True,
        # Partitions come and go with the data, and that index depends on the server.
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


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    settings = load_settings()
    if settings.database_url:
        asyncio.run(run_at(settings.database_url.get_secret_value()))
    else:
        with embedded_postgres(settings.data_dir) as url:
            asyncio.run(run_at(url))
