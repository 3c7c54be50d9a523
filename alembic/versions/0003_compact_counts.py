"""Counts as the text of JSON, a third smaller than jsonb, and an index that finds a day's rows"""

import sqlalchemy as sa
from alembic import op

from app.db.migration_locks import lock_out_readers, lock_publish

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# The text that ingests write: keys in the order of their characters, and no spaces.
COMPACT = """
CREATE FUNCTION pg_temp.compact(counts jsonb) RETURNS json LANGUAGE sql IMMUTABLE AS $$
    SELECT CAST('{' || coalesce(
        string_agg(to_json(key) || ':' || value, ',' ORDER BY key COLLATE "C"), ''
    ) || '}' AS json)
    FROM jsonb_each_text(counts)
$$
"""

# As `app.db.day_digest` had it when this was written.
DIGESTS = """
UPDATE {days} AS days SET digest = described.digest FROM (
    SELECT day, encode(sha256(convert_to(concat_ws(' ',
        count(*),
        sum(CAST(CAST('x' || substr(hash, 1, 16) AS bit(64)) AS bigint)),
        sum(CAST(CAST('x' || substr(hash, 17, 16) AS bit(64)) AS bigint))
    ), 'UTF8')), 'hex') AS digest
    FROM (
        SELECT day, encode(sha256(convert_to(concat_ws(' ', name, with_mirrors, without_mirrors,
            CAST(python_minor AS text), CAST(system AS text)), 'UTF8')), 'hex') AS hash
        FROM ({rows}) AS rows
    ) AS hashed
    GROUP BY day
) AS described
WHERE days.day = described.day
"""


def upgrade() -> None:
    lock_publish()
    # Keeps only those from writing who are kept from it already. The new months get it as well.
    op.create_index(
        "ix_daily_downloads_date",
        "daily_downloads",
        ["date"],
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )
    op.execute(COMPACT)
    _convert("json", "pg_temp.compact({})")
    op.execute("DROP FUNCTION pg_temp.compact")
    for column in ("python_minor", "system"):
        op.execute(
            f"COMMENT ON COLUMN held_downloads.{column} "
            "IS 'Downloads by category, mirrors excluded.'"
        )


def downgrade() -> None:
    lock_publish()
    _convert("jsonb", "CAST({} AS jsonb)")
    op.drop_index("ix_daily_downloads_date", "daily_downloads")


def _convert(kind: str, conversion: str) -> None:
    """Convert everything beside what is read, which is locked for the moment of the exchange."""
    connection = op.get_bind()
    months = [
        (name, *bounds)
        for name, *bounds in connection.execute(
            sa.text(
                "SELECT relname, first, CAST(first + interval '1 month' AS date) "
                "FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid, "
                "LATERAL (SELECT to_date(right(relname, 7), 'YYYY_MM')) AS month (first) "
                "WHERE inhparent = CAST('daily_downloads' AS regclass) ORDER BY relname"
            )
        )
    ]
    for table in ("held_downloads", *(name for name, *_ in months)):
        op.execute(f"CREATE TABLE {table}_new (LIKE {table} INCLUDING ALL)")
        _retype(f"{table}_new", kind)
        columns = "day, name" if table == "held_downloads" else "package_id, date"
        counts = ", ".join(conversion.format(column) for column in ("python_minor", "system"))
        op.execute(
            f"INSERT INTO {table}_new ({columns}, with_mirrors, without_mirrors, python_minor, "
            f"system) SELECT {columns}, with_mirrors, without_mirrors, {counts} FROM {table}"
        )
    for name, first, following in months:
        # Attaching would look through the rows for this, while everybody waits.
        op.execute(
            f"ALTER TABLE {name}_new ADD CONSTRAINT month "
            f"CHECK (date >= '{first}' AND date < '{following}')"
        )
        rows = (
            f"SELECT date AS day, packages.name, {name}_new.* FROM {name}_new "
            "JOIN packages ON packages.id = package_id WHERE packages.name <> '__all__'"
        )
        op.execute(DIGESTS.format(days="ingested_days", rows=rows))
    op.execute(DIGESTS.format(days="held_days", rows="SELECT * FROM held_downloads_new"))
    lock_out_readers("daily_downloads", "held_downloads")
    op.execute("DROP TABLE held_downloads")
    op.execute("ALTER TABLE held_downloads_new RENAME TO held_downloads")
    op.create_table_comment("held_downloads", "The rows of held days, which nobody is served.")
    for name, *_ in months:
        op.execute(f"DROP TABLE {name}")
    _retype("daily_downloads", kind)
    for name, first, following in months:
        op.execute(f"ALTER TABLE {name}_new RENAME TO {name}")
        for index in ("pkey", "date_idx"):
            op.execute(f"ALTER INDEX {name}_new_{index} RENAME TO {name}_{index}")
        op.execute(
            f"ALTER TABLE daily_downloads ATTACH PARTITION {name} "
            f"FOR VALUES FROM ('{first}') TO ('{following}')"
        )
        op.execute(f"ALTER TABLE {name} DROP CONSTRAINT month")


def _retype(empty_table: str, kind: str) -> None:
    op.execute(
        f"ALTER TABLE {empty_table} "
        f"ALTER python_minor TYPE {kind} USING CAST(python_minor AS {kind}), "
        f"ALTER system TYPE {kind} USING CAST(system AS {kind})"
    )
