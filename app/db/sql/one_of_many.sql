-- For each kind of difference, the first package by name, and the number of packages.
SELECT DISTINCT ON (what) day, what, recorded, found, count(*) OVER (PARTITION BY what), name
FROM differing ORDER BY what, name
