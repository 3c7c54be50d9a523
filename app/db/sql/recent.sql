SELECT {columns}last_day, last_week, last_month
FROM packages
WHERE {condition} AND last_seen > (SELECT max(day) FROM ingested_days) - {retention_days}
