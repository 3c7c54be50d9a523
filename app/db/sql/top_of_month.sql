-- The condition with a constant lets Postgres use the partial index. The limit keeps it from reading
-- all packages for their names.
SELECT rank, name, downloads,
    (SELECT downloads FROM stored_months WHERE month = :month) AS all_downloads
FROM (
    SELECT package_id, rank, without_mirrors AS downloads
    FROM monthly_downloads
    WHERE month = :month AND rank <= {ranked_packages}
    ORDER BY rank
    LIMIT :limit
) AS ranked JOIN packages ON id = package_id
