-- The packages whose last day is not that of their latest row.
WITH differing AS (
    SELECT coalesce(last_seen, found, (SELECT max(day) FROM ingested_days)) AS day, name,
        CASE WHEN found IS NULL THEN 'last_seen, without a row' ELSE 'last_seen' END AS what,
        coalesce(CAST(last_seen AS text), 'none') AS recorded,
        coalesce(CAST(found AS text), 'none') AS found
    FROM packages CROSS JOIN LATERAL (
        SELECT max(date) AS found FROM daily_downloads WHERE package_id = id
    ) AS latest
    WHERE last_seen IS DISTINCT FROM found OR (
        found IS NULL AND NOT EXISTS (SELECT FROM monthly_downloads WHERE package_id = id)
    )
)
{one_of_many}
