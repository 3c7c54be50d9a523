-- Corrects packages that were last seen on a day that no longer has them.
WITH gone AS (
    SELECT id, (SELECT max(date) FROM daily_downloads WHERE package_id = id) AS seen
    FROM packages
    WHERE last_seen = :day
        AND NOT EXISTS (SELECT FROM daily_downloads WHERE package_id = id AND date = :day)
),
-- Packages that no other day has.
deleted AS (DELETE FROM packages USING gone WHERE packages.id = gone.id AND seen IS NULL)
UPDATE packages SET last_seen = seen FROM gone WHERE packages.id = gone.id AND seen IS NOT NULL
