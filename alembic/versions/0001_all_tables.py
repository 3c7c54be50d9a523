"""All tables"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


BREAKDOWNS = ("python_minor", "system")
OPTIONAL = ("installer", "ci", "country", "version", "implementation", "file_type")


def _counts() -> list[sa.Column[Any]]:
    return [
        sa.Column("with_mirrors", sa.BigInteger(), nullable=False),
        sa.Column("without_mirrors", sa.BigInteger(), nullable=False),
        *(sa.Column(name, postgresql.JSON(), nullable=False) for name in BREAKDOWNS),
        *(sa.Column(name, postgresql.JSON()) for name in OPTIONAL),
    ]


def _figures() -> list[sa.Column[Any]]:
    return [
        sa.Column("partition_rows", sa.BigInteger()),
        sa.Column("partition_modified_at", sa.DateTime(timezone=True)),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("packages", sa.BigInteger(), nullable=False),
        sa.Column("downloads", sa.BigInteger(), nullable=False),
        sa.Column("downloads_with_mirrors", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("breakdowns", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("counted_files", sa.Text(), nullable=False),
    ]


def upgrade() -> None:
    op.create_table(
        "daily_downloads",
        sa.Column("package_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        *_counts(),
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
        *_figures(),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("held_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("readings", sa.BigInteger(), nullable=False),
        sa.Column("same_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wrong_rows", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_held_days")),
        comment="Days that were read and are not published, since they do not look plausible.",
    )
    op.create_table(
        "held_downloads",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        *_counts(),
        comment="Rows of held days, which are not served.",
    )
    op.create_table(
        "ingest_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("partition_rows", sa.BigInteger()),
        sa.Column("partition_modified_at", sa.DateTime(timezone=True)),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger()),
        sa.Column("bytes_billed", sa.BigInteger()),
        sa.Column("query", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingest_runs")),
        comment="Runs that read a day from a source, or published a day after it was held.",
    )
    op.create_table(
        "ingested_days",
        *_figures(),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("suspect_reason", sa.Text()),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_ingested_days")),
        comment="Published days: those with rows in daily_downloads.",
    )
    op.create_table(
        "packages",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "last_seen",
            sa.Date(),
            nullable=False,
            comment="Latest day with a row in daily_downloads.",
        ),
        *(
            sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)
            for name in ("last_day", "last_week", "last_month", "previous_week")
        ),
        sa.Column(
            "month_rank",
            sa.Integer(),
            comment="1 is the most downloaded package. NULL for __all__ and without downloads.",
        ),
        sa.Column("is_popular", sa.Boolean(), server_default=sa.text("false"), nullable=False),
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
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_publication_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publication")),
        comment="The latest publish: one row, or none before the first.",
    )
    op.create_table(
        "top_packages",
        sa.Column("period", sa.Text(), nullable=False, comment="day, week or month."),
        sa.Column("rank", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("downloads", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("period", "rank", name=op.f("pk_top_packages")),
        comment="The packages with the most downloads, mirrors excluded.",
    )
    op.create_table(
        "trending_packages",
        sa.Column("rank", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last_week", sa.BigInteger(), nullable=False),
        sa.Column("previous_week", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rank", name=op.f("pk_trending_packages")),
        comment="The packages whose downloads grew most from week to week, mirrors excluded.",
    )
