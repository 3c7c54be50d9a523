-- The days served and the stored months that were published or replaced after a publish.
SELECT 'day' AS kind, day AS first_day, digest, announced_at
FROM ingested_days
WHERE day BETWEEN :first AND :last AND announced_at > :since
UNION ALL
SELECT 'month', month, digest, announced_at FROM stored_months WHERE announced_at > :since
