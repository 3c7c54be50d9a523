-- One row per package, like those of series.sql. The values of stored months are among those of the
-- days, at the first day of each month. The days of these months are not read.
SELECT name, of_package.*{published_days}
FROM packages CROSS JOIN LATERAL (
    SELECT array_agg(date) AS days, {joined}
    FROM (
        SELECT month AS date, {columns}
        FROM monthly_downloads
        WHERE package_id = packages.id AND month = ANY (:months){condition}
        UNION ALL
        SELECT date, {columns}
        FROM daily_downloads
        WHERE package_id = packages.id AND date BETWEEN :first AND :last{condition}
            AND CAST(date_trunc('month', date) AS date) <> ALL (:months)
        ORDER BY date
    ) AS of_days_and_months
) AS of_package
WHERE name = ANY (:packages) AND (
    last_seen >= :first_served
    OR EXISTS (SELECT FROM monthly_downloads WHERE package_id = packages.id)
)
