-- The downloads of `__all__`, and the sums over all packages.
SELECT {what} AS what,
    sum({downloads}) FILTER (WHERE name = :all_packages) AS recorded,
    sum({downloads}) FILTER (WHERE name <> :all_packages) AS found
FROM {rows}
GROUP BY what
