-- The differences between a day's record and its rows.
WITH stored AS MATERIALIZED (
    -- The day's rows. They are read only once, because Postgres reads the whole month to find them.
    SELECT
        packages.id IS NULL AS is_unknown,
        coalesce(name, 'package_id ' || package_id) AS name,
        with_mirrors, without_mirrors, {columns}
    FROM daily_downloads LEFT JOIN packages ON packages.id = package_id
    WHERE date = :day
),
of_packages AS (SELECT * FROM stored WHERE name <> :all_packages),
differing AS (
    -- Rows whose categories do not add up to their downloads, and rows without a package.
    SELECT CAST(:day AS date) AS day, name, what || ' of a row' AS what,
        CAST(without_mirrors AS text) AS recorded, CAST(found AS text) AS found
    FROM stored CROSS JOIN LATERAL (VALUES {row_sums}) AS sums (what, found)
    WHERE without_mirrors <> found
    UNION ALL
    SELECT :day, name, 'rows of no package', '0', '1' FROM stored WHERE is_unknown
)
-- Compare the record of the day with its rows.
SELECT CAST(:day AS date), what, recorded, found, CAST(NULL AS bigint), NULL
FROM ingested_days AS record
CROSS JOIN ({description}) AS described
CROSS JOIN LATERAL (VALUES
    ('digest', record.digest, described.digest),
    ('packages', CAST(record.packages AS text), CAST(described.packages AS text)),
    ('downloads', CAST(record.downloads AS text), CAST(described.downloads AS text)),
    ('downloads_with_mirrors', CAST(record.downloads_with_mirrors AS text),
        CAST(described.downloads_with_mirrors AS text)),
    ('breakdowns', array_to_string(record.breakdowns, ' '),
        array_to_string(described.breakdowns, ' '))
) AS figures (what, recorded, found)
WHERE record.day = :day AND recorded <> found
UNION ALL
-- Compare the row of `__all__` with the sums of the other rows.
SELECT :day, :all_packages || ' ' || what,
    coalesce(CAST(recorded AS text), 'none'), coalesce(CAST(found AS text), 'none'), NULL, NULL
FROM ({all_packages_sums}) AS sums
WHERE recorded IS DISTINCT FROM found
UNION ALL
({one_of_many})
