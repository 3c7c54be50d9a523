-- Each row starts with the time of the latest publish in the query's own snapshot. If the query has
-- no rows, there is one row with only the time. The first column of the query is never NULL.
SELECT seen.published_at, found.*
FROM (SELECT (SELECT published_at FROM publication) AS published_at) AS seen
LEFT JOIN ({query}) AS found ON true
{order}
