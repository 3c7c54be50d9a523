-- Rewrites the figures and the rank of each package whose figures have changed.
UPDATE packages SET
    last_seen = greatest(packages.last_seen, ranked.last_seen),
    last_day = ranked.last_day,
    last_week = ranked.last_week,
    last_month = ranked.last_month,
    previous_week = ranked.previous_week,
    month_rank = ranked.month_rank,
    is_popular = coalesce(ranked.month_rank <= :popular, false)
FROM (
    -- __all__ and packages without a download come after all others, and have no rank.
    SELECT id, last_seen, last_day, last_week, last_month, previous_week,
        CASE WHEN ranked_by > 0 THEN
            row_number() OVER (ORDER BY ranked_by DESC, name COLLATE "C")
        END AS month_rank
    FROM (
        SELECT *, CASE WHEN name <> :all_packages THEN last_month ELSE 0 END AS ranked_by
        FROM ({figures}) AS figures
    ) AS to_rank
    -- The order of ids is nearly the order of the table's pages, so each page is written once.
    ORDER BY id
) AS ranked
WHERE packages.id = ranked.id AND (
    ranked.last_seen > coalesce(packages.last_seen, '-infinity')
    OR (packages.last_day, packages.last_week, packages.last_month, packages.previous_week,
        packages.month_rank)
    IS DISTINCT FROM (ranked.last_day, ranked.last_week, ranked.last_month, ranked.previous_week,
        ranked.month_rank)
)
