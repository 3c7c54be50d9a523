-- The packages whose recent figures differ from the sums of their days.
WITH summed AS ({sum_figures}),
differing AS (
    SELECT CAST(:latest AS date) AS day, packages.name, what,
        CAST(recorded AS text) AS recorded, CAST(found AS text) AS found
    FROM packages JOIN summed USING (id)
    CROSS JOIN LATERAL (VALUES
        ('last_day', packages.last_day, summed.last_day),
        ('last_week', packages.last_week, summed.last_week),
        ('previous_week', packages.previous_week, summed.previous_week),
        ('last_month', packages.last_month, summed.last_month)
    ) AS figures (what, recorded, found)
    WHERE recorded <> found
)
{one_of_many}
