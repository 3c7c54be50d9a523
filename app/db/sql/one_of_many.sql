-- Returns the first package by name for each kind of difference, and the number of such packages.
SELECT DISTINCT ON (what) day, what, recorded, found, count(*) OVER (PARTITION BY what), name
FROM differing ORDER BY what, name
