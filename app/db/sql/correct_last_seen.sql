-- Corrects `last_seen` of packages that no longer have a row on that day.
WITH gone AS (
    SELECT id, (SELECT max(date) FROM daily_downloads WHERE package_id = id) AS seen
    FROM packages
    WHERE last_seen = :day
        AND NOT EXISTS (SELECT FROM daily_downloads WHERE package_id = id AND date = :day)
),
-- Delete packages without a row on any other day or in any month.
deleted AS (
    DELETE FROM packages USING gone
    WHERE packages.id = gone.id AND seen IS NULL
        AND NOT EXISTS (SELECT FROM monthly_downloads WHERE package_id = gone.id)
)
UPDATE packages SET last_seen = seen FROM gone
WHERE packages.id = gone.id AND (
    seen IS NOT NULL OR EXISTS (SELECT FROM monthly_downloads WHERE package_id = gone.id)
)
