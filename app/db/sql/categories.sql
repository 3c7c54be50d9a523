-- A row's categories and their downloads. Invalid JSON values return no downloads, so that they show
-- up as wrong sums instead of failing the statement.
SELECT key AS category,
    CASE jsonb_typeof(value) WHEN 'number' THEN CAST(value AS numeric) END AS downloads
FROM jsonb_each(CASE json_typeof({column}) WHEN 'object' THEN CAST({column} AS jsonb) ELSE '{}' END)
