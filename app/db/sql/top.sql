SELECT rank, name, downloads,
    ({all_downloads}) AS all_downloads
FROM top_packages
WHERE period = '{period}' AND rank <= :limit
