-- An additional column of series.sql: the published days of the range.
, (
    SELECT array_agg(day ORDER BY day) FROM ingested_days
    WHERE day BETWEEN :first AND :last{condition}
) AS published_days
