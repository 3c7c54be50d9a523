-- The rows of a month, with their ranks. `__all__` and packages without a download have no rank.
SELECT id AS package_id, CAST(:month AS date) AS month, with_mirrors, without_mirrors,
    CASE WHEN ranked_by > 0 THEN
        row_number() OVER (ORDER BY ranked_by DESC, name COLLATE "C")
    END AS rank, {columns}
FROM (
    SELECT *, CASE WHEN name <> :all_packages THEN without_mirrors ELSE 0 END AS ranked_by
    FROM staged_month JOIN packages USING (name)
) AS to_rank
ORDER BY id
