-- The rows of top_packages. Equal downloads are ranked by the bytes of the names, so that the rank
-- does not depend on the database's collation.
SELECT period, name, downloads,
    row_number() OVER (PARTITION BY period ORDER BY downloads DESC, name COLLATE "C") AS rank
FROM (VALUES ('day'), ('week'), ('month')) AS periods (period)
CROSS JOIN LATERAL (
    SELECT name,
        CASE period WHEN 'day' THEN last_day WHEN 'week' THEN last_week ELSE last_month END
            AS downloads
    FROM packages
    WHERE name <> :all_packages
    ORDER BY downloads DESC, name COLLATE "C"
    LIMIT :ranked
) AS most
WHERE downloads > 0
