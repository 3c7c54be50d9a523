"""What was read of a day, why days are held, and how each ingest went"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "ingested_days",
        sa.Column(
            "downloads_with_mirrors",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Of all packages.",
        ),
    )
    op.add_column(
        "ingested_days",
        sa.Column(
            "checked_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the source was last read for the day, whether or not it had grown.",
        ),
    )
    op.add_column(
        "ingested_days",
        sa.Column(
            "was_implausible",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Published all the same: as a new level, or by hand.",
        ),
    )
    # A day without its row of all packages is damaged: `verify` tells of it.
    op.execute(
        "UPDATE ingested_days SET checked_at = published_at, downloads_with_mirrors = coalesce(("
        " SELECT with_mirrors FROM daily_downloads JOIN packages ON packages.id = package_id"
        " WHERE packages.name = '__all__' AND date = day), 0)"
    )
    op.create_table(
        "held_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("packages", sa.Integer(), nullable=False),
        sa.Column(
            "downloads",
            sa.BigInteger(),
            nullable=False,
            comment="Of all packages, mirrors excluded.",
        ),
        sa.Column(
            "downloads_with_mirrors", sa.BigInteger(), nullable=False, comment="Of all packages."
        ),
        sa.Column(
            "digest", sa.Text(), nullable=False, comment="Of the day's rows, in whatever order."
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why it was not published."),
        sa.Column("held_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "read_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it was last read.",
        ),
        sa.Column("readings", sa.Integer(), nullable=False, comment="How often it was read."),
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
        sa.PrimaryKeyConstraint("day", name=op.f("pk_held_days")),
        comment="Days that were read and are not published, since they do not look plausible.",
    )
    op.create_table(
        "held_downloads",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("with_mirrors", sa.BigInteger(), nullable=False),
        sa.Column("without_mirrors", sa.BigInteger(), nullable=False),
        sa.Column("python_minor", postgresql.JSONB(), nullable=False),
        sa.Column("system", postgresql.JSONB(), nullable=False),
        comment="The rows of held days, which nobody is served.",
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
            comment="By which the source gives the day's rows again, at no further cost.",
        ),
        sa.Column("rows", sa.Integer(), comment="Packages that the source gave."),
        sa.Column("bytes_billed", sa.BigInteger(), comment="NULL until the source has told."),
        sa.Column("error", sa.Text(), comment="Why the day was held, or what failed."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingest_runs")),
        comment="Each time that a day was asked of a source, or published after it was held.",
    )


def downgrade() -> None:
    op.drop_table("ingest_runs")
    op.drop_table("held_downloads")
    op.drop_table("held_days")
    op.drop_column("ingested_days", "was_implausible")
    op.drop_column("ingested_days", "checked_at")
    op.drop_column("ingested_days", "downloads_with_mirrors")
