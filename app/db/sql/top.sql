-- The packages with the most downloads in a period, as the last publish ranked them.
SELECT rank, name, downloads,
    ({all_downloads}) AS all_downloads
FROM top_packages
WHERE period = '{period}' AND rank <= :limit
