-- The days of a month that have rows but are not published.
SELECT date, 'rows of a day that is not published', '0', CAST(count(*) AS text), NULL, NULL
FROM daily_downloads
WHERE date >= :first AND date < :next
    AND NOT EXISTS (SELECT FROM ingested_days WHERE day = date)
GROUP BY date ORDER BY date
