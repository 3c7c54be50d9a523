WITH differing AS (
    SELECT last_seen AS day, name,
        CASE WHEN found IS NULL THEN 'last_seen, without a row' ELSE 'last_seen' END AS what,
        CAST(last_seen AS text) AS recorded, coalesce(CAST(found AS text), 'none') AS found
    FROM packages CROSS JOIN LATERAL (
        SELECT max(date) AS found FROM daily_downloads WHERE package_id = id
    ) AS latest
    WHERE last_seen IS DISTINCT FROM found
)
{one_of_many}
