"""Packages, their daily downloads and the days that were ingested"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
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
        sa.PrimaryKeyConstraint("id", name=op.f("pk_packages")),
        sa.UniqueConstraint("name", name=op.f("uq_packages_name")),
        comment="Packages with a row in daily_downloads, and their downloads, mirrors excluded, "
        "in the 1, 7 and 30 days that end with the latest published one.",
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "daily_downloads",
        sa.Column("package_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("with_mirrors", sa.BigInteger(), nullable=False),
        sa.Column("without_mirrors", sa.BigInteger(), nullable=False),
        sa.Column(
            "python_minor",
            postgresql.JSONB(),
            nullable=False,
            comment="Downloads by category, mirrors excluded.",
        ),
        sa.Column(
            "system",
            postgresql.JSONB(),
            nullable=False,
            comment="Downloads by category, mirrors excluded.",
        ),
        sa.CheckConstraint(
            "0 <= without_mirrors AND without_mirrors <= with_mirrors",
            name=op.f("ck_daily_downloads_counts"),
        ),
        sa.PrimaryKeyConstraint("package_id", "date", name=op.f("pk_daily_downloads")),
        postgresql_partition_by="RANGE (date)",
    )
    op.create_table(
        "ingested_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column(
            "packages", sa.Integer(), nullable=False, comment="Packages with a row that day."
        ),
        sa.Column(
            "downloads",
            sa.BigInteger(),
            nullable=False,
            comment="Of all packages, mirrors excluded.",
        ),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "digest", sa.Text(), nullable=False, comment="Of the day's rows, in whatever order."
        ),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_ingested_days")),
        comment="Published days: those with rows in daily_downloads.",
    )


def downgrade() -> None:
    op.drop_table("ingested_days")
    op.drop_table("daily_downloads")
    op.drop_table("packages")
