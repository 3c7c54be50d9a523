-- The failed runs of each day since its last successful one, oldest first.
SELECT day, started_at, outcome, query IS NOT NULL OR bytes_billed IS NOT NULL AS is_costly
FROM ingest_runs AS run
WHERE outcome IN ('failed', 'interrupted') AND NOT is_month AND NOT EXISTS (
    SELECT FROM ingest_runs
    WHERE day = run.day AND NOT is_month AND id > run.id AND outcome IN ('published', 'unchanged', 'held')
)
ORDER BY id
