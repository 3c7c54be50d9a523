SELECT rank, name, last_week, previous_week FROM trending_packages WHERE rank <= :limit
