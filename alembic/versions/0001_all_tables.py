"""All tables"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.db.breakdown_columns import optional_column, required_column

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _breakdown_columns() -> list[sa.Column[Any]]:
    return [
        *map(required_column, ("python_minor", "system")),
        *map(
            optional_column,
            ("installer", "ci", "country", "version", "implementation", "file_type"),
        ),
    ]


def _partition_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("partition_rows", sa.BigInteger(), comment="Rows of the source's partition."),
        sa.Column(
            "partition_modified_at",
            sa.DateTime(timezone=True),
            comment="When the source's partition was last modified.",
        ),
    ]


def upgrade() -> None:
    op.create_table(
        "daily_downloads",
        sa.Column("package_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("with_mirrors", sa.BigInteger(), nullable=False),
        sa.Column("without_mirrors", sa.BigInteger(), nullable=False),
        *_breakdown_columns(),
        sa.CheckConstraint(
            "0 <= without_mirrors AND without_mirrors <= with_mirrors",
            name=op.f("ck_daily_downloads_counts"),
        ),
        sa.PrimaryKeyConstraint(
            "package_id",
            "date",
            name=op.f("pk_daily_downloads"),
            postgresql_include=["with_mirrors", "without_mirrors"],
        ),
        postgresql_partition_by="RANGE (date)",
    )
    op.create_index(
        op.f("ix_daily_downloads_date"),
        "daily_downloads",
        ["date"],
        unique=False,
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )
    op.create_table(
        "held_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column(
            "counted_files",
            sa.Text(),
            nullable=False,
            comment="Rule of INGEST_COUNTED_FILES that the day was counted by: all or artifacts.",
        ),
        sa.Column(
            "packages", sa.Integer(), nullable=False, comment="Packages with a row that day."
        ),
        sa.Column(
            "downloads",
            sa.BigInteger(),
            nullable=False,
            comment="Downloads of all packages, mirrors excluded.",
        ),
        sa.Column(
            "downloads_with_mirrors",
            sa.BigInteger(),
            nullable=False,
            comment="Downloads of all packages.",
        ),
        sa.Column(
            "digest",
            sa.Text(),
            nullable=False,
            comment="Digest of the day's rows, independent of their order.",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why it was not published."),
        sa.Column("held_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "read_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it was last read, or checked and unchanged.",
        ),
        sa.Column(
            "readings",
            sa.Integer(),
            nullable=False,
            comment="How often it was read or checked.",
        ),
        sa.Column(
            "same_since",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When these rows were first read.",
        ),
        sa.Column(
            "wrong_rows",
            sa.Integer(),
            nullable=False,
            comment="Rows that were left out, since their counts are wrong.",
        ),
        sa.Column(
            "breakdowns",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            comment="Optional columns that the day's rows have.",
        ),
        *_partition_columns(),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_held_days")),
        comment="Days that were read and are not published, since they do not look plausible.",
    )
    op.create_table(
        "held_downloads",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("with_mirrors", sa.BigInteger(), nullable=False),
        sa.Column("without_mirrors", sa.BigInteger(), nullable=False),
        *_breakdown_columns(),
        comment="Rows of held days, which are not served.",
    )
    op.create_table(
        "ingest_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="NULL while it runs, and when its process was killed.",
        ),
        sa.Column(
            "outcome",
            sa.Text(),
            nullable=False,
            comment="running, published, unchanged, held, failed, stopped or interrupted.",
        ),
        sa.Column(
            "query",
            sa.Text(),
            nullable=True,
            comment="The source's query, whose result can be read again at no cost.",
        ),
        sa.Column(
            "rows", sa.Integer(), nullable=True, comment="Packages that the source returned."
        ),
        sa.Column(
            "bytes_billed",
            sa.BigInteger(),
            nullable=True,
            comment="NULL if the source has not reported it.",
        ),
        sa.Column(
            "error", sa.Text(), nullable=True, comment="Why the day was held, or what failed."
        ),
        *_partition_columns(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingest_runs")),
        comment="Runs that read a day from a source, or published a day after it was held.",
    )
    op.create_table(
        "ingested_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column(
            "counted_files",
            sa.Text(),
            nullable=False,
            comment="Rule of INGEST_COUNTED_FILES that the day was counted by: all or artifacts.",
        ),
        sa.Column(
            "packages", sa.Integer(), nullable=False, comment="Packages with a row that day."
        ),
        sa.Column(
            "downloads",
            sa.BigInteger(),
            nullable=False,
            comment="Downloads of all packages, mirrors excluded.",
        ),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "digest",
            sa.Text(),
            nullable=False,
            comment="Digest of the day's rows, independent of their order.",
        ),
        sa.Column(
            "downloads_with_mirrors",
            sa.BigInteger(),
            nullable=False,
            comment="Downloads of all packages.",
        ),
        sa.Column(
            "checked_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When the source was last read or checked for the day, whether or not it had "
            "changed.",
        ),
        sa.Column(
            "suspect_reason",
            sa.Text(),
            nullable=True,
            comment="How the day deviates from its neighbours. NULL if it does not.",
        ),
        sa.Column(
            "breakdowns",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            comment="Optional columns that the day's rows have.",
        ),
        *_partition_columns(),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_ingested_days")),
        comment="Published days: those with rows in daily_downloads.",
    )
    op.create_table(
        "packages",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Normalised, or __all__."),
        sa.Column(
            "last_seen",
            sa.Date(),
            nullable=False,
            comment="Latest day with a row in daily_downloads.",
        ),
        sa.Column("last_day", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_week", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_month", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "previous_week",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Downloads in the 7 days before those of last_week.",
        ),
        sa.Column(
            "month_rank",
            sa.Integer(),
            nullable=True,
            comment="Rank by last_month; 1 has most. NULL for __all__ and without downloads.",
        ),
        sa.Column(
            "is_popular",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="True if among the first by month_rank, which search reads first.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_packages")),
        sa.UniqueConstraint("name", name=op.f("uq_packages_name")),
        comment="Packages with a row in daily_downloads, and their downloads, mirrors excluded, "
        "in the 1, 7 and 30 days that end with the latest published one.",
        postgresql_with={"fillfactor": 50},
    )
    op.create_index(
        "ix_packages_name",
        "packages",
        ["name"],
        unique=False,
        postgresql_ops={"name": 'COLLATE "C"'},
    )
    op.create_index(
        "ix_packages_popular",
        "packages",
        ["name"],
        unique=False,
        postgresql_ops={"name": 'COLLATE "C"'},
        postgresql_where=sa.text("is_popular"),
    )
    op.create_table(
        "publication",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column(
            "published_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When the last statement of the latest publish ran. Different for each "
            "publish.",
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_publication_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publication")),
        comment="The latest publish: one row, or none before the first.",
    )
    op.create_table(
        "top_packages",
        sa.Column("period", sa.Text(), nullable=False, comment="day, week or month."),
        sa.Column(
            "rank",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="Rank; 1 has most downloads.",
        ),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("downloads", sa.BigInteger(), nullable=False, comment="Downloads in the period."),
        sa.PrimaryKeyConstraint("period", "rank", name=op.f("pk_top_packages")),
        comment="The packages with most downloads, mirrors excluded.",
    )
    op.create_table(
        "trending_packages",
        sa.Column(
            "rank", sa.Integer(), autoincrement=False, nullable=False, comment="Rank; 1 grew most."
        ),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last_week", sa.BigInteger(), nullable=False),
        sa.Column("previous_week", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rank", name=op.f("pk_trending_packages")),
        comment="The packages whose downloads grew most from week to week, mirrors excluded.",
    )
