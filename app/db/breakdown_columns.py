"""The columns of breakdowns, and how a migration adds one."""

from typing import Any

from sqlalchemy import Column, func, select
from sqlalchemy.dialects.postgresql import JSON

from app.db.advisory_lock import LockKey

TABLES = ("daily_downloads", "held_downloads")
"""The tables with a column for each breakdown."""


def required_column(name: str) -> Column[Any]:
    """Return the column of a breakdown that every day has.

    It stores downloads by category as the compact text of a JSON object. With its keys in order and
    without spaces it is a third smaller than `jsonb`, and is sent to clients as it is.
    """
    return Column(name, JSON, nullable=False, comment="Downloads by category, mirrors excluded.")


def optional_column(name: str) -> Column[Any]:
    """Return the column of a breakdown that some days lack."""
    return Column(name, JSON, comment="NULL where it was not ingested that day.")


def add_breakdown(name: str) -> None:
    """Add the column of an optional breakdown to all tables, in a migration.

    The digests of published and held days stay valid, since they leave out what is NULL. No row is
    rewritten. The locks are held for milliseconds, and the migration is tried again if reads or a
    publish keep it from getting them within a second.
    """
    from alembic import op  # noqa: PLC0415 - slow to import, and needed only in migrations

    # A publish uses both tables. Without it, there can be no deadlock.
    op.execute(select(func.pg_advisory_xact_lock(int(LockKey.PUBLISH))))
    for table in TABLES:
        op.add_column(table, optional_column(name))
