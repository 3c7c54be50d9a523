-- Figures of all packages, computed from the stored ones, whose periods ended a day earlier. The new
-- last day of each period is added, and the day that leaves the period is subtracted. This reads 4
-- days instead of 30.
SELECT id, name,
    CASE WHEN latest.package_id IS NOT NULL THEN CAST(:latest AS date) END AS last_seen,
    coalesce(latest.without_mirrors, 0) AS last_day,
    last_week + coalesce(latest.without_mirrors, 0) - coalesce(week.without_mirrors, 0)
        AS last_week,
    previous_week + coalesce(week.without_mirrors, 0) - coalesce(trend.without_mirrors, 0)
        AS previous_week,
    last_month + coalesce(latest.without_mirrors, 0) - coalesce(month.without_mirrors, 0)
        AS last_month
FROM packages
LEFT JOIN (SELECT package_id, without_mirrors FROM daily_downloads WHERE date = :latest) AS latest
    ON latest.package_id = id
LEFT JOIN (SELECT package_id, without_mirrors FROM daily_downloads WHERE date = :week) AS week
    ON week.package_id = id
LEFT JOIN (SELECT package_id, without_mirrors FROM daily_downloads WHERE date = :trend) AS trend
    ON trend.package_id = id
LEFT JOIN (SELECT package_id, without_mirrors FROM daily_downloads WHERE date = :month) AS month
    ON month.package_id = id
