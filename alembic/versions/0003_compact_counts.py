"""Counts as the text of JSON, a third smaller than jsonb, and an index that finds a day's rows"""

import logging

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
DESCRIBED = """
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
"""

# Of days whose rows are those that were recorded.
DIGESTS = f"""
UPDATE {{days}} AS days SET digest = converted.digest
FROM ({DESCRIBED.format(rows="{stored}")}) AS stored
JOIN ({DESCRIBED.format(rows="{converted}")}) AS converted USING (day)
WHERE days.day = stored.day AND days.digest = stored.digest
RETURNING days.day
"""

log = logging.getLogger(__name__)


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
        "SELECT date AS day, packages.name, {0}.* FROM {0} "
        "JOIN packages ON packages.id = package_id WHERE packages.name <> '__all__'"
    )
    _describe("ingested_days", {name: rows for name, *_ in months})
    _describe("held_days", {"held_downloads": "SELECT * FROM {}"})
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


def _describe(days: str, tables: dict[str, str]) -> None:
    """Record the digests that converted rows have, given how each table's rows are asked for.

    A day that was damaged before stays different from its record, so that `verify` tells.
    """
    connection = op.get_bind()
    different = set(connection.scalars(sa.text(f"SELECT day FROM {days}")))
    for table, rows in tables.items():
        digests = DIGESTS.format(
            days=days, stored=rows.format(table), converted=rows.format(f"{table}_new")
        )
        different -= set(connection.scalars(sa.text(digests)))
    for day in sorted(different):
        log.warning("%s: the rows are not those that %s has recorded", day, days)


def _retype(empty_table: str, kind: str) -> None:
    op.execute(
        f"ALTER TABLE {empty_table} "
        f"ALTER python_minor TYPE {kind} USING CAST(python_minor AS {kind}), "
        f"ALTER system TYPE {kind} USING CAST(system AS {kind})"
    )
