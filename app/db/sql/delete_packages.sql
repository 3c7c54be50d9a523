-- Deletes packages without a row in any day or month.
DELETE FROM packages
WHERE last_seen IS NULL
    AND NOT EXISTS (SELECT FROM monthly_downloads WHERE package_id = packages.id)
