"""The key of a package's days has their totals, so that `overall` is read from it alone"""

import sqlalchemy as sa
from alembic import op

from app.db.migration_locks import lock_out_readers, lock_out_writers, lock_publish

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KEY = "PRIMARY KEY (package_id, date)"
TOTALS = "INCLUDE (with_mirrors, without_mirrors)"

# Less than a day is of a month: each is vacuumed after it was published.
VACUUM = "autovacuum_vacuum_insert_scale_factor"
LEAST_SHARE_OF_A_MONTH = 0.02


def upgrade() -> None:
    months = _replace_key(TOTALS)
    for month in months:
        op.execute(f"ALTER TABLE {month} SET ({VACUUM} = {LEAST_SHARE_OF_A_MONTH})")


def downgrade() -> None:
    months = _replace_key("")
    for month in months:
        op.execute(f"ALTER TABLE {month} RESET ({VACUUM})")


def _replace_key(included: str) -> list[str]:
    """Build the new key beside the old one, which is read meanwhile, and exchange them for a
    moment in which nobody reads. Says which months there are.
    """
    lock_publish()
    lock_out_writers("daily_downloads")
    months = list(
        op.get_bind().scalars(
            sa.text(
                "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
                "WHERE inhparent = CAST('daily_downloads' AS regclass) ORDER BY relname"
            )
        )
    )
    for month in months:
        op.execute(f"CREATE UNIQUE INDEX {month}_new_key ON {month} (package_id, date) {included}")
    lock_out_readers("daily_downloads")
    op.execute("ALTER TABLE daily_downloads DROP CONSTRAINT pk_daily_downloads")
    for month in months:
        op.execute(
            f"ALTER TABLE {month} ADD CONSTRAINT {month}_pkey PRIMARY KEY USING INDEX "
            f"{month}_new_key"
        )
    # Of which those of the months are made a part, as they are.
    op.execute(f"ALTER TABLE daily_downloads ADD CONSTRAINT pk_daily_downloads {KEY} {included}")
    return months
