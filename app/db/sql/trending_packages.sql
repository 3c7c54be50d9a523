-- The rows of trending_packages. There are none if a day of the two weeks is not published, because
-- weeks with different numbers of days can't be compared.
SELECT name, last_week, previous_week,
    row_number() OVER (ORDER BY growth DESC, name COLLATE "C") AS rank
FROM (
    SELECT name, last_week, previous_week,
        CAST(last_week AS double precision) / previous_week AS growth
    FROM packages
    WHERE last_week > previous_week AND previous_week >= :trend_floor AND name <> :all_packages
        AND :trend_days = (
            SELECT count(*) FROM ingested_days WHERE day > :trend AND day <= :latest
        )
    ORDER BY growth DESC, name COLLATE "C"
    LIMIT :ranked
) AS growing
