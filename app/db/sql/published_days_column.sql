-- An additional column of series.sql: the published days of the range. Days before a followed
-- package was added do not count, because they lack its downloads.
, (
    SELECT array_agg(day ORDER BY day) FROM ingested_days
    WHERE day BETWEEN :first AND :last{condition} AND followed IS NOT DISTINCT FROM
        (SELECT followed FROM ingested_days ORDER BY day DESC LIMIT 1)
) AS published_days
