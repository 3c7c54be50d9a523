-- Of many packages with the same difference, the first one by name stands for all.
SELECT DISTINCT ON (what) day, what, recorded, found, count(*) OVER (PARTITION BY what), name
FROM differing ORDER BY what, name
