"""Monthly downloads, followed packages, and the publish of each change"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

BREAKDOWNS = (
    *("python_minor", "system", "installer", "ci", "country", "version", "implementation"),
    *("file_type", "cpu", "libc", "distro", "installer_version"),
)

PACKAGES_COMMENT = (
    "Packages with a row in {}, and their downloads, mirrors excluded, in the "
    "1, 7 and 30 days that end with the latest published one."
)


def upgrade() -> None:
    op.create_table(
        "stored_months",
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("days", sa.BigInteger(), nullable=False),
        sa.Column("missing_days", postgresql.ARRAY(sa.Date()), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("counted_files", sa.Text()),
        sa.Column("breakdowns", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("categories", postgresql.JSON(), nullable=False),
        sa.Column("packages", sa.BigInteger(), nullable=False),
        sa.Column("downloads", sa.BigInteger(), nullable=False),
        sa.Column("downloads_with_mirrors", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("days_digest", sa.Text()),
        sa.Column("followed", sa.Text()),
        sa.Column("rolled_up_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("announced_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("month", name=op.f("pk_stored_months")),
        comment="Stored months: those with rows in monthly_downloads.",
    )
    op.create_table(
        "monthly_downloads",
        sa.Column("package_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("with_mirrors", sa.BigInteger(), nullable=False),
        sa.Column("without_mirrors", sa.BigInteger(), nullable=False),
        sa.Column(
            "rank",
            sa.Integer(),
            comment="1 is the most downloaded package. NULL for __all__ and without downloads.",
        ),
        *(sa.Column(name, postgresql.JSON()) for name in BREAKDOWNS),
        sa.CheckConstraint(
            "0 <= without_mirrors AND without_mirrors <= with_mirrors",
            name=op.f("ck_monthly_downloads_counts"),
        ),
        sa.PrimaryKeyConstraint(
            "package_id",
            "month",
            name=op.f("pk_monthly_downloads"),
            postgresql_include=["without_mirrors"],
        ),
    )
    op.create_index(
        op.f("ix_monthly_downloads_month"),
        "monthly_downloads",
        ["month"],
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )
    op.create_index(
        "ix_monthly_downloads_top",
        "monthly_downloads",
        ["month", "rank"],
        postgresql_where=sa.text("rank <= 1000"),
    )
    op.alter_column(
        "packages",
        "last_seen",
        nullable=True,
        comment="Latest day with a row in daily_downloads. NULL without such rows.",
        existing_comment="Latest day with a row in daily_downloads.",
    )
    op.create_table_comment(
        "packages",
        PACKAGES_COMMENT.format("daily_downloads or monthly_downloads"),
        existing_comment=PACKAGES_COMMENT.format("daily_downloads"),
    )
    op.alter_column(
        "top_packages",
        "period",
        comment="day, week, month or all.",
        existing_comment="day, week or month.",
    )
    for table in ("ingested_days", "held_days"):
        op.add_column(table, sa.Column("followed", sa.Text()))
    # Runs until now read days.
    op.add_column(
        "ingest_runs", sa.Column("is_month", sa.Boolean(), nullable=False, server_default="false")
    )
    op.alter_column("ingest_runs", "is_month", server_default=None)
    op.add_column("ingested_days", sa.Column("announced_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE ingested_days SET announced_at = published_at")
