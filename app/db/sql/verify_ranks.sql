-- The packages whose rank differs from the one that their figures give.
WITH ranked AS (
    -- The ranks that follow from the stored figures.
    SELECT name, month_rank, is_popular,
        CASE WHEN last_month > 0 AND name <> :all_packages THEN row_number() OVER
            (ORDER BY name = :all_packages, last_month DESC, name COLLATE "C") END AS rank
    FROM packages
),
differing AS (
    SELECT CAST(:latest AS date) AS day, name, what,
        coalesce(recorded, 'none') AS recorded, coalesce(found, 'none') AS found
    FROM ranked CROSS JOIN LATERAL (VALUES
        ('month_rank', CAST(month_rank AS text), CAST(rank AS text)),
        ('is_popular', CAST(is_popular AS text),
            CAST(coalesce(rank <= :popular, false) AS text))
    ) AS ranks (what, recorded, found)
    WHERE recorded IS DISTINCT FROM found
)
{one_of_many}
