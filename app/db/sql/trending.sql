-- The packages whose downloads grow most, as the last publish ranked them.
SELECT rank, name, last_week, previous_week FROM trending_packages WHERE rank <= :limit
