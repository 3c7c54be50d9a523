-- The entries of the rankings that differ from those that the figures of packages give.
WITH recorded AS (
    SELECT 'top of ' || period AS what, rank, name, concat_ws(' ', name, downloads) AS entry
    FROM top_packages
    UNION ALL
    SELECT 'trending', rank, name, concat_ws(' ', name, last_week, previous_week)
    FROM trending_packages
),
found AS (
    SELECT 'top of ' || period AS what, rank, name, concat_ws(' ', name, downloads) AS entry
    FROM (SELECT * FROM ({top_packages}) AS top UNION ALL {top_of_months}) AS top
    UNION ALL
    SELECT 'trending', rank, name, concat_ws(' ', name, last_week, previous_week)
    FROM ({trending_packages}) AS trending
),
differing AS (
    SELECT CAST(:latest AS date) AS day, what || ', rank ' || rank AS what,
        coalesce(recorded.entry, 'none') AS recorded, coalesce(found.entry, 'none') AS found
    FROM recorded FULL JOIN found USING (what, rank)
    WHERE recorded.entry IS DISTINCT FROM found.entry
)
SELECT day, what, recorded, found, NULL, NULL FROM differing ORDER BY what
