-- The differences between a month's record and its rows.
WITH stored AS MATERIALIZED (
    SELECT name, with_mirrors, without_mirrors, rank,
        CASE WHEN without_mirrors > 0 AND name <> :all_packages THEN row_number() OVER
            (ORDER BY name = :all_packages, without_mirrors DESC, name COLLATE "C") END AS found
    FROM monthly_downloads JOIN packages ON id = package_id
    WHERE month = :month
),
differing AS (
    SELECT CAST(:month AS date) AS day, name, 'rank of the month' AS what,
        coalesce(CAST(rank AS text), 'none') AS recorded,
        coalesce(CAST(found AS text), 'none') AS found
    FROM stored WHERE rank IS DISTINCT FROM found
)
-- Compare the row of `__all__` with the sums of the other rows.
SELECT CAST(:month AS date), :all_packages || ' ' || what || ' of the month',
    coalesce(CAST(recorded AS text), 'none'), coalesce(CAST(found AS text), 'none'), NULL, NULL
FROM ({all_packages_sums}) AS sums
WHERE recorded IS DISTINCT FROM found
UNION ALL
({one_of_many})
