-- One row per package: its name, and the values of its days joined in order, or NULL if it has no
-- row on the requested days. Receiving one row per day would take several times as long. Postgres
-- reads the days in order from the primary keys of the partitions, without a sort, as long as the
-- aggregates do not request an order and the days are not joined to another table.
SELECT name, of_package.*{published_days}
FROM packages CROSS JOIN LATERAL (
    SELECT array_agg(date) AS days, {joined}
    FROM (
        SELECT date, {columns}
        FROM daily_downloads
        WHERE package_id = packages.id AND date BETWEEN :first AND :last{condition}
        ORDER BY date
    ) AS of_days
) AS of_package
WHERE name = ANY (:packages) AND last_seen >= :first_served
