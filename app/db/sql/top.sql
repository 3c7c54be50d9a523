SELECT rank, name, downloads,
    (SELECT last_{period} FROM packages WHERE name = '{all_packages}') AS all_downloads
FROM top_packages
WHERE period = '{period}' AND rank <= :limit
