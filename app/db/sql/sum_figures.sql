-- Figures of all packages, summed over the days of the periods. Sums are cast to bigint, because
-- numeric takes longer to sort and to compare.
SELECT id, name, sums.last_seen,
    coalesce(CAST(sums.last_day AS bigint), 0) AS last_day,
    coalesce(CAST(sums.last_week AS bigint), 0) AS last_week,
    coalesce(CAST(sums.previous_week AS bigint), 0) AS previous_week,
    coalesce(CAST(sums.last_month AS bigint), 0) AS last_month
FROM packages LEFT JOIN (
    SELECT package_id,
        max(date) AS last_seen,
        sum(without_mirrors) FILTER (WHERE date = :latest) AS last_day,
        sum(without_mirrors) FILTER (WHERE date > :week) AS last_week,
        sum(without_mirrors) FILTER (WHERE date > :trend AND date <= :week) AS previous_week,
        sum(without_mirrors) AS last_month
    FROM daily_downloads WHERE date > :month AND date <= :latest
    GROUP BY package_id
) AS sums ON package_id = id
