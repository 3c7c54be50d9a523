-- The current publication: one row.
WITH earlier AS (
    -- Days before the window, of months that are not stored. Retention has not dropped them yet.
    -- Days of other followed packages do not count.
    SELECT day, digest
    FROM ingested_days
    WHERE day <= (SELECT max(day) FROM ingested_days) - {retention_days}
        AND followed IS NOT DISTINCT FROM
            (SELECT followed FROM ingested_days ORDER BY day DESC LIMIT 1)
        AND NOT EXISTS (
            SELECT FROM stored_months WHERE day BETWEEN month AND month + interval '1 month - 1 day'
        )
)
SELECT
    array_agg(day ORDER BY day) AS days,
    string_agg(array_to_string(breakdowns, ' '), ' ') AS breakdowns,
    array_agg(counted_files ORDER BY day) AS counted_files,
    (SELECT published_at FROM publication) AS published_at,
    encode(sha256(convert_to(
        concat_ws(';',
            string_agg(concat_ws(' ', day, digest, counted_files, followed), ',' ORDER BY day),
            (
                SELECT string_agg(
                    concat_ws(' ', month, digest, counted_files, missing_days, followed),
                    ',' ORDER BY month
                )
                FROM stored_months
            ),
            (SELECT string_agg(concat_ws(' ', day, digest), ',' ORDER BY day) FROM earlier),
            (SELECT followed FROM ingested_days ORDER BY day DESC LIMIT 1)
        ), 'UTF8'
    )), 'hex') AS digest,
    (
        SELECT coalesce(CAST(json_agg(stored_months ORDER BY month) AS text), '[]')
        FROM stored_months
    ) AS months,
    (SELECT array_agg(day ORDER BY day) FROM earlier) AS earlier_days,
    (SELECT count(*) FROM held_days) AS held_days,
    count(suspect_reason) AS suspect_days,
    to_regclass('{trigram_index}') IS NOT NULL AS has_trigrams,
    bool_or(source = '{sample}') AS is_sample,
    (SELECT followed FROM ingested_days ORDER BY day DESC LIMIT 1) AS followed
FROM ingested_days
WHERE day > (SELECT max(day) FROM ingested_days) - {retention_days}
