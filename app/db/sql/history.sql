-- One row per known month of a package. Each month is read from one of the two tables.
SELECT of_months.*, stored.rank
FROM packages
CROSS JOIN LATERAL (
    SELECT month, with_mirrors, without_mirrors
    FROM monthly_downloads
    WHERE package_id = packages.id AND month = ANY (:months)
    UNION ALL
    SELECT CAST(date_trunc('month', date) AS date) AS month,
        CAST(sum(with_mirrors) AS bigint), CAST(sum(without_mirrors) AS bigint)
    FROM daily_downloads
    WHERE package_id = packages.id AND date >= :first_known
        AND CAST(date_trunc('month', date) AS date) <> ALL (:months)
    GROUP BY 1
) AS of_months
LEFT JOIN monthly_downloads AS stored
    ON stored.package_id = packages.id AND stored.month = of_months.month
WHERE name = :package
