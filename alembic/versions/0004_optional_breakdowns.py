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

# As `app.db.day_digest` had it when this was written, with the optional breakdowns and without.
DESCRIBED = """
SELECT encode(sha256(convert_to(concat_ws(' ',
    count(*),
    sum(CAST(CAST('x' || substr(hash, 1, 16) AS bit(64)) AS bigint)),
    sum(CAST(CAST('x' || substr(hash, 17, 16) AS bit(64)) AS bigint))
), 'UTF8')), 'hex')
FROM (
    SELECT encode(sha256(convert_to(concat_ws(' ', name, with_mirrors, without_mirrors,
        CAST(python_minor AS text), CAST(system AS text){optional}), 'UTF8')), 'hex') AS hash
    FROM ({rows}) AS rows
) AS hashed
"""
OPTIONAL = "".join(f", '{name} ' || CAST({name} AS text)" for name in BREAKDOWNS)

PUBLISHED_ROWS = (
    "SELECT packages.name, daily_downloads.* FROM daily_downloads "
    "JOIN packages ON packages.id = package_id "
    "WHERE packages.name <> '__all__' AND date = days.day"
)
HELD_ROWS = "SELECT held_downloads.* FROM held_downloads WHERE held_downloads.day = days.day"


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
    # The digest of a day is that of the columns which stay. One that was damaged stays different.
    for table, rows in (("ingested_days", PUBLISHED_ROWS), ("held_days", HELD_ROWS)):
        op.execute(
            f"UPDATE {table} AS days SET digest = ({DESCRIBED.format(optional='', rows=rows)}) "
            "WHERE breakdowns <> '{}' AND digest = "
            f"({DESCRIBED.format(optional=OPTIONAL, rows=rows)})"
        )
    lock_out_readers(*TABLES)
    for table in ("held_days", "ingested_days"):
        op.drop_column(table, "breakdowns")
    for table in ("held_downloads", "daily_downloads"):
        for name in reversed(BREAKDOWNS):
            op.drop_column(table, name)
