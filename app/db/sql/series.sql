-- One row per package: its name, and the values of its days joined in order, or NULL if it has none
-- of the requested days. Receiving one row per day would take several times as long. The days come in
-- order from the partitions' primary keys, month by month, without a sort. For that, aggregates must
-- not request an order, and the days must not be joined to another table.
SELECT name, of_package.*{known}
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
