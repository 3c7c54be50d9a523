"""Room for ranks of packages, and for rankings"""

import sqlalchemy as sa
from alembic import op

from app.db.migration_locks import lock_out_readers, lock_publish

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    lock_publish()
    lock_out_readers("packages")
    op.add_column(
        "packages",
        sa.Column(
            "previous_week",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Downloads in the 7 days before those of last_week.",
        ),
    )
    op.add_column(
        "packages",
        sa.Column(
            "month_rank",
            sa.Integer(),
            nullable=True,
            comment="By last_month, 1 is most. NULL without downloads in it, and for __all__.",
        ),
    )
    op.add_column(
        "packages",
        sa.Column(
            "is_popular",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Among the first by month_rank, in which search looks first.",
        ),
    )
    op.create_table(
        "top_packages",
        sa.Column("period", sa.Text(), nullable=False, comment="day, week or month."),
        sa.Column("rank", sa.Integer(), autoincrement=False, nullable=False, comment="1 is most."),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("downloads", sa.BigInteger(), nullable=False, comment="In the period."),
        sa.PrimaryKeyConstraint("period", "rank", name=op.f("pk_top_packages")),
        comment="The packages with most downloads, mirrors excluded.",
    )
    op.create_table(
        "trending_packages",
        sa.Column(
            "rank", sa.Integer(), autoincrement=False, nullable=False, comment="1 grew most."
        ),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last_week", sa.BigInteger(), nullable=False),
        sa.Column("previous_week", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rank", name=op.f("pk_trending_packages")),
        comment="The packages whose downloads grew most from week to week, mirrors excluded.",
    )


def downgrade() -> None:
    lock_publish()
    lock_out_readers("packages")
    op.drop_table("trending_packages")
    op.drop_table("top_packages")
    op.drop_column("packages", "is_popular")
    op.drop_column("packages", "month_rank")
    op.drop_column("packages", "previous_week")
