-- The recent downloads of the packages that have downloads in the days served.
SELECT {columns}last_day, last_week, last_month
FROM packages
WHERE {condition} AND last_seen > (SELECT max(day) FROM ingested_days) - {retention_days}
