-- An expression: the sums of one breakdown over all staged rows, or NULL without the breakdown.
CASE WHEN bool_or({column} IS NOT NULL) THEN (
    SELECT CAST(
        '{' || coalesce(string_agg(
            to_json(category) || ':' || downloads, ',' ORDER BY category COLLATE "C"
        ), '') || '}' AS json
    )
    FROM (
        SELECT key AS category, sum(times * CAST(value AS bigint)) AS downloads
        FROM (
            -- Parse equal texts only once: most packages have few downloads, and so the same counts
            -- as many other packages.
            SELECT CAST({column} AS text) AS counts, count(*) AS times
            FROM staged_downloads GROUP BY counts
        ) AS equal_counts, json_each_text(CAST(counts AS json))
        GROUP BY key
    ) AS categories
) END
