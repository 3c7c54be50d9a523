"""Ranks, rankings, and names that are found by how they begin: nobody who reads waits for these"""

from alembic import op

from app.db.migration_locks import lock_publish

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# As of this migration, like the statements below: later ones may have others.
POPULAR_PACKAGES = 20_000
RANKED_PACKAGES = 1_000
TREND_FLOOR_DOWNLOADS = 10_000


def upgrade() -> None:
    # What is summed here is what is published: no publish comes in between.
    lock_publish()
    for table in ("top_packages", "trending_packages"):
        op.execute(f"DELETE FROM {table}")
    op.execute(
        "CREATE TEMPORARY TABLE ranked ON COMMIT DROP AS "
        "SELECT id, coalesce(sums.previous_week, 0) AS previous_week,"
        " CASE WHEN last_month > 0 AND name <> '__all__' THEN row_number() OVER"
        "  (ORDER BY name = '__all__', last_month DESC, name COLLATE \"C\") END AS month_rank "
        "FROM packages LEFT JOIN ("
        " SELECT package_id, sum(without_mirrors) AS previous_week"
        " FROM daily_downloads, (SELECT max(day) AS latest FROM ingested_days) AS days"
        " WHERE date > latest - 14 AND date <= latest - 7 GROUP BY package_id"
        ") AS sums ON package_id = id"
    )
    op.execute(
        "UPDATE packages SET previous_week = ranked.previous_week,"
        " month_rank = ranked.month_rank,"
        f" is_popular = coalesce(ranked.month_rank <= {POPULAR_PACKAGES}, false) "
        "FROM ranked WHERE ranked.id = packages.id"
        " AND (ranked.previous_week > 0 OR ranked.month_rank IS NOT NULL)"
    )
    # By their bytes, whatever the database's collation.
    op.execute('CREATE INDEX ix_packages_name ON packages (name COLLATE "C")')
    op.execute("DROP INDEX IF EXISTS ix_packages_popular")
    op.execute('CREATE INDEX ix_packages_popular ON packages (name COLLATE "C") WHERE is_popular')
    for period in ("day", "week", "month"):
        op.execute(
            "INSERT INTO top_packages (period, rank, name, downloads) "
            f"SELECT '{period}', row_number() OVER (ORDER BY last_{period} DESC,"
            f' name COLLATE "C"), name, last_{period} '
            f"FROM packages WHERE last_{period} > 0 AND name <> '__all__' "
            f'ORDER BY last_{period} DESC, name COLLATE "C" LIMIT {RANKED_PACKAGES}'
        )
    op.execute(
        "INSERT INTO trending_packages (rank, name, last_week, previous_week) "
        'SELECT row_number() OVER (ORDER BY growth DESC, name COLLATE "C"), name,'
        " last_week, previous_week "
        "FROM (SELECT *, CAST(last_week AS double precision) / previous_week AS growth"
        " FROM packages"
        f" WHERE last_week > previous_week AND previous_week >= {TREND_FLOOR_DOWNLOADS}"
        " AND name <> '__all__') AS growing "
        "WHERE (SELECT count(*) FROM ingested_days"
        " WHERE day > (SELECT max(day) FROM ingested_days) - 14) = 14 "
        f'ORDER BY growth DESC, name COLLATE "C" LIMIT {RANKED_PACKAGES}'
    )


def downgrade() -> None:
    op.drop_index("ix_packages_popular", "packages")
    op.drop_index("ix_packages_name", "packages")
