-- Rows of months that are not stored.
SELECT month, 'rows of a month that is not stored', '0', CAST(count(*) AS text), NULL, NULL
FROM monthly_downloads
WHERE NOT EXISTS (SELECT FROM stored_months WHERE stored_months.month = monthly_downloads.month)
GROUP BY month ORDER BY month
