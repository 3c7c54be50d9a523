"""Breakdowns that are ingested where a setting says so, and which of them a day has"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.db.migration_locks import lock_out_readers, lock_publish

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BREAKDOWNS = ("installer", "ci", "country", "version", "implementation")

TABLES = ("daily_downloads", "held_downloads", "ingested_days", "held_days")
"""In the order of readers."""


def upgrade() -> None:
    lock_publish()
    lock_out_readers(*TABLES)
    for table in ("daily_downloads", "held_downloads"):
        for name in BREAKDOWNS:
            op.add_column(
                table,
                sa.Column(
                    name, postgresql.JSON(), comment="NULL where it was not ingested that day."
                ),
            )
    for table in ("ingested_days", "held_days"):
        op.add_column(
            table,
            sa.Column(
                "breakdowns",
                postgresql.ARRAY(sa.Text()),
                server_default=sa.text("'{}'"),
                nullable=False,
                comment="The optional columns that the day's rows have.",
            ),
        )


def downgrade() -> None:
    lock_publish()
    lock_out_readers(*TABLES)
    for table in ("held_days", "ingested_days"):
        op.drop_column(table, "breakdowns")
    for table in ("held_downloads", "daily_downloads"):
        for name in reversed(BREAKDOWNS):
            op.drop_column(table, name)
