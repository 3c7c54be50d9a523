-- The number of packages with downloads in the days served, and the size of all tables with indexes.
SELECT
    (
        SELECT count(*) FROM packages
        WHERE name <> '{all_packages}'
            AND last_seen > (SELECT max(day) FROM ingested_days) - {retention_days}
    ) AS packages,
    CAST(
        pg_total_relation_size('packages') + pg_total_relation_size('ingested_days')
        + pg_total_relation_size('held_downloads') + pg_total_relation_size('monthly_downloads')
        + (
            SELECT sum(pg_total_relation_size(relid))
            FROM pg_partition_tree('daily_downloads')
        ) AS bigint
    ) AS size_bytes
