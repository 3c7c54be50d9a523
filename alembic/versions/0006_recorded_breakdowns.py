"""Breakdowns of a day are those of its digest, whichever version published it"""

from alembic import op

from app.db.migration_locks import lock_out_readers, lock_publish

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    lock_publish()
    lock_out_readers("ingested_days")
    op.execute("ALTER TABLE ingested_days ADD COLUMN recorded_as text")
    op.execute(
        "COMMENT ON COLUMN ingested_days.recorded_as IS 'The digest of the rows as they were "
        "published, and their optional columns. Of another digest, or NULL, where a process of an "
        "earlier version has published the day.'"
    )
    op.execute(
        "UPDATE ingested_days"
        " SET recorded_as = concat_ws(' ', digest, nullif(array_to_string(breakdowns, ' '), ''))"
    )
    op.execute(
        "ALTER TABLE ingested_days DROP COLUMN breakdowns, "
        "ADD COLUMN breakdowns text[] NOT NULL GENERATED ALWAYS AS (CASE"
        " WHEN split_part(recorded_as, ' ', 1) = digest"
        " THEN (string_to_array(recorded_as, ' '))[2:] ELSE '{}' END) STORED"
    )
    op.execute(
        "COMMENT ON COLUMN ingested_days.breakdowns "
        "IS 'The optional columns that the day''s rows have.'"
    )


def downgrade() -> None:
    lock_publish()
    lock_out_readers("ingested_days")
    op.execute("ALTER TABLE ingested_days ALTER breakdowns DROP EXPRESSION")
    op.execute("ALTER TABLE ingested_days ALTER breakdowns SET DEFAULT '{}'")
    op.execute("ALTER TABLE ingested_days DROP COLUMN recorded_as")
