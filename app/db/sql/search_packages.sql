-- The exact name, then popular packages, other packages, and similar names. Popular packages rank
-- before all others. Each part is limited, and runs only if the parts before it found fewer rows
-- than the limit. The condition for that is outside of the limited subquery, so that Postgres
-- starts no parallel workers for a part that does not run. Names consist of letters, digits and
-- "-", which all sort before "~".
WITH popular AS MATERIALIZED (
    SELECT * FROM (
        SELECT 1 AS tier, month_rank AS rank, name {by_bytes} AS name, last_month
        FROM packages
        WHERE is_popular AND name {by_bytes} > :text AND name {by_bytes} < :text || '~'
            AND (1, month_rank, name {by_bytes}) > (:tier, :rank, :name)
        ORDER BY rank
        LIMIT :limit
    ) AS first
    WHERE CAST(:tier AS integer) < 2
),
others AS MATERIALIZED (
    SELECT * FROM (
        SELECT 1 AS tier, coalesce(month_rank, {unranked}) AS rank, name {by_bytes} AS name,
            last_month
        FROM packages
        WHERE NOT is_popular AND name {by_bytes} > :text AND name {by_bytes} < :text || '~'
            AND last_seen > (SELECT max(day) FROM ingested_days) - {retention_days}
            AND (1, coalesce(month_rank, {unranked}), name {by_bytes}) > (:tier, :rank, :name)
        ORDER BY rank, name
        LIMIT :limit
    ) AS first
    WHERE CAST(:tier AS integer) < 2 AND (SELECT count(*) FROM popular) < :limit
),
similar_ones AS MATERIALIZED (
    SELECT * FROM (
        SELECT 2 AS tier, month_rank AS rank, name {by_bytes} AS name, last_month
        FROM packages
        WHERE {similar} AND NOT starts_with(name, :text)
            AND (2, month_rank, name {by_bytes}) > (:tier, :rank, :name)
        ORDER BY rank
        LIMIT :limit
    ) AS first
    WHERE (SELECT count(*) FROM popular) + (SELECT count(*) FROM others) < :limit
)
SELECT 0 AS tier, coalesce(month_rank, {unranked}) AS rank, name {by_bytes} AS name, last_month
FROM packages
WHERE CAST(:tier AS integer) < 0 AND name = :text AND name <> '{all_packages}'
    AND last_seen > (SELECT max(day) FROM ingested_days) - {retention_days}
UNION ALL SELECT * FROM popular
UNION ALL SELECT * FROM others
UNION ALL SELECT * FROM similar_ones
ORDER BY 1, 2, 3
LIMIT :limit
