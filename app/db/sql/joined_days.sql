-- One row per package of a range of ids: the sums of its days' downloads, and their counts joined.
-- Counts are added up by the caller, because Postgres would take ten times as long to parse them.
SELECT name, with_mirrors, without_mirrors, {columns}
FROM (
    SELECT package_id,
        CAST(sum(with_mirrors) AS bigint) AS with_mirrors,
        CAST(sum(without_mirrors) AS bigint) AS without_mirrors,
        {joined}
    FROM daily_downloads
    WHERE package_id BETWEEN :first_id AND :last_id AND date >= :month AND date < :next
    GROUP BY package_id
) AS sums JOIN packages ON id = package_id
ORDER BY package_id
