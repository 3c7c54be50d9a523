"""Ranks of packages, rankings, and names that are found by how they begin"""

import sqlalchemy as sa
from alembic import op

from app.db.advisory_lock import LockKey

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

PUBLISH_LOCK_TIMEOUT_SECONDS = 120
"""A publish may be on its way. Nobody who reads waits behind this lock."""

# As of this migration, like the statements below: later ones may have others.
POPULAR_PACKAGES = 20_000
RANKED_PACKAGES = 1_000
TREND_FLOOR_DOWNLOADS = 10_000


def upgrade() -> None:
    # What is summed here is what is published: no publish comes in between.
    timeout = op.get_bind().scalar(sa.text("SELECT current_setting('lock_timeout')"))
    op.execute(f"SET LOCAL lock_timeout = '{PUBLISH_LOCK_TIMEOUT_SECONDS}s'")
    op.execute(f"SELECT pg_advisory_xact_lock({int(LockKey.PUBLISH)})")
    op.execute(f"SET LOCAL lock_timeout = '{timeout}'")
    # Sorts and sums come before anything that readers have to wait for, which then takes some
    # seconds at PyPI's size.
    op.execute(
        "CREATE TEMPORARY TABLE ranked ON COMMIT DROP AS "
        "SELECT id, coalesce(previous_week, 0) AS previous_week,"
        " CASE WHEN last_month > 0 AND name <> '__all__' THEN row_number() OVER"
        "  (ORDER BY name = '__all__', last_month DESC, name COLLATE \"C\") END AS month_rank "
        "FROM packages LEFT JOIN ("
        " SELECT package_id, sum(without_mirrors) AS previous_week"
        " FROM daily_downloads, (SELECT max(day) AS latest FROM ingested_days) AS days"
        " WHERE date > latest - 14 AND date <= latest - 7 GROUP BY package_id"
        ") AS sums ON package_id = id"
    )
    op.alter_column(
        "packages",
        "name",
        type_=sa.Text(collation="C"),
        existing_type=sa.Text(),
        existing_nullable=False,
        existing_comment="Normalised, or __all__.",
    )
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
    op.execute(
        "UPDATE packages SET previous_week = ranked.previous_week,"
        " month_rank = ranked.month_rank,"
        f" is_popular = coalesce(ranked.month_rank <= {POPULAR_PACKAGES}, false) "
        "FROM ranked WHERE ranked.id = packages.id"
        " AND (ranked.previous_week > 0 OR ranked.month_rank IS NOT NULL)"
    )
    op.create_index(
        "ix_packages_popular", "packages", ["name"], postgresql_where=sa.text("is_popular")
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
    for period in ("day", "week", "month"):
        op.execute(
            "INSERT INTO top_packages (period, rank, name, downloads) "
            f"SELECT '{period}', row_number() OVER (ORDER BY last_{period} DESC, name), name,"
            f" last_{period} "
            f"FROM packages WHERE last_{period} > 0 AND name <> '__all__' "
            f"ORDER BY last_{period} DESC, name LIMIT {RANKED_PACKAGES}"
        )
    op.execute(
        "INSERT INTO trending_packages (rank, name, last_week, previous_week) "
        "SELECT row_number() OVER (ORDER BY growth DESC, name), name, last_week, previous_week "
        "FROM (SELECT *, CAST(last_week AS double precision) / previous_week AS growth"
        " FROM packages"
        f" WHERE last_week > previous_week AND previous_week >= {TREND_FLOOR_DOWNLOADS}"
        " AND name <> '__all__') AS growing "
        "WHERE (SELECT count(*) FROM ingested_days"
        " WHERE day > (SELECT max(day) FROM ingested_days) - 14) = 14 "
        f"ORDER BY growth DESC, name LIMIT {RANKED_PACKAGES}"
    )


def downgrade() -> None:
    op.drop_table("trending_packages")
    op.drop_table("top_packages")
    # Their indexes go with them.
    op.drop_column("packages", "is_popular")
    op.drop_column("packages", "month_rank")
    op.drop_column("packages", "previous_week")
    op.alter_column(
        "packages",
        "name",
        type_=sa.Text(),
        existing_type=sa.Text(collation="C"),
        existing_nullable=False,
        existing_comment="Normalised, or __all__.",
    )
