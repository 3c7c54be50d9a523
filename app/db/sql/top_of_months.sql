-- The rows of top_packages for all stored months together, ranked like those of `top_packages.sql`.
SELECT '{all_months}' AS period, name, downloads,
    row_number() OVER (ORDER BY downloads DESC, name COLLATE "C") AS rank
FROM (
    SELECT name, downloads
    FROM (
        SELECT package_id, CAST(sum(without_mirrors) AS bigint) AS downloads
        FROM monthly_downloads GROUP BY package_id
    ) AS sums JOIN packages ON id = package_id
    WHERE downloads > 0 AND name <> :all_packages
    ORDER BY downloads DESC, name COLLATE "C"
    LIMIT :ranked
) AS most
