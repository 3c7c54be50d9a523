"""Brings a database's schema up to date with this code."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.advisory_lock import LockKey, lock_for_transaction
from app.db.engine import connect
from app.errors import MigrationError

ALEMBIC_INI = Path(__file__).parents[2] / "alembic.ini"


async def migrate(engine: AsyncEngine) -> None:
    """Run the migrations that are missing, all in one transaction.

    Of several processes that start together one migrates and the others wait for it. Raises
    `MigrationError` when the database is ahead of this code.
    """
    async with connect(engine) as connection:
        await lock_for_transaction(connection, LockKey.MIGRATE)
        await connection.run_sync(_upgrade)
        await connection.commit()


def _upgrade(connection: Connection) -> None:
    config = Config(ALEMBIC_INI)
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    held = MigrationContext.configure(connection).get_current_heads()
    if not known.issuperset(held):
        raise MigrationError(
            f"the database was migrated to {', '.join(held)}, which is further than this code "
            f"knows ({script.get_current_head()}): run the version that migrated it, or a later one"
        )
    command.upgrade(config, "head")
