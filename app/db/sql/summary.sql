-- Figures of one package. `previous_week` and `previous_month` are NULL if a day of that period or
-- of the one after it is not published.
SELECT last_day, last_week, last_month,
    CASE WHEN trend_days = {trend_days} THEN previous_week END AS previous_week,
    CASE WHEN month_days = 2 * {month_days} THEN previous_month END AS previous_month,
    month_rank, downloads, first_date, latest_date, peak_date, peak_downloads,
    (SELECT CAST(sum(without_mirrors) AS bigint) FROM ({history}) AS months) AS total
FROM packages
CROSS JOIN (
    SELECT max(day) AS latest,
        count(*) FILTER (WHERE day > latest - {trend_days}) AS trend_days,
        count(*) FILTER (WHERE day > latest - 2 * {month_days}) AS month_days
    FROM ingested_days, (SELECT max(day) AS latest FROM ingested_days) AS of_all
    WHERE day > latest - {retention_days}
) AS days
CROSS JOIN LATERAL (
    SELECT coalesce(CAST(sum(without_mirrors) AS bigint), 0) AS downloads,
        min(date) FILTER (WHERE without_mirrors > 0) AS first_date,
        max(date) FILTER (WHERE without_mirrors > 0) AS latest_date,
        (array_agg(date ORDER BY without_mirrors DESC, date)
            FILTER (WHERE without_mirrors > 0))[1] AS peak_date,
        coalesce(max(without_mirrors), 0) AS peak_downloads,
        coalesce(CAST(sum(without_mirrors) FILTER (
            WHERE date > latest - 2 * {month_days} AND date <= latest - {month_days}
        ) AS bigint), 0) AS previous_month
    FROM daily_downloads
    WHERE package_id = packages.id
        AND date > (SELECT max(day) FROM ingested_days) - {retention_days}
) AS series
WHERE name = :package AND last_seen > latest - {retention_days}
