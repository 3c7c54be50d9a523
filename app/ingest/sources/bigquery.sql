-- One UTC day of raw downloads, one row a package.
--
-- The counting rules are those of the public service:
--   * All files count that PyPI has logged, or, if so chosen, only artifacts.
--   * A download counts if its Python version is missing or starts like one (X.Y).
--   * with_mirrors counts them all. Everything else leaves out known mirrors, and downloads without
--     an installer.
--   * Packages are keyed by their normalised name (PEP 503).
--
-- The table is read once, one day's partition of it: GROUPING SETS counts the package as a whole
-- and by each breakdown from the same scan. A breakdown leaves here as the inside of a JSON object,
-- which is far shorter on the way than an array of structs.
--
-- A row leaves as one text, with tabs between: with_mirrors, without_mirrors, each breakdown in the
-- order of the columns, package. Each value of an answer is an object of its own, which takes longer
-- to read than all that is in it. TO_JSON_STRING escapes tabs, and a name that has one comes last.
--
-- A package may have thousands of releases: the most downloaded ones of the day are kept apart, the
-- rest is `other`. Every other breakdown has few categories by its expression.
--
-- In braces stands what `app/ingest/sources/day_query.py` fills in: the table, the condition on file names
-- where there is one, and for the breakdowns that are ingested their columns, so that nothing is
-- billed for the others.
--
-- Parameters: the day's bounds, start and end, and mirror_installers.
SELECT
  CONCAT(
    CAST(SUM(IF(breakdown IS NULL, with_mirrors, 0)) AS STRING), '\t',
    CAST(SUM(IF(breakdown IS NULL, without_mirrors, 0)) AS STRING), '\t',
    {objects}, '\t',
    IFNULL(package, '')
  ) AS line
FROM (
  SELECT
    package,
    breakdown,
    IF(breakdown = 'version' AND place > {max_versions}, 'other', value) AS category,
    SUM(with_mirrors) AS with_mirrors,
    SUM(without_mirrors) AS without_mirrors
  FROM (
    SELECT
      *,
      ROW_NUMBER() OVER (
        PARTITION BY package, breakdown ORDER BY without_mirrors DESC, value
      ) AS place
    FROM (
      SELECT
        package,
        CASE
          {breakdowns}
        END AS breakdown,
        COALESCE({columns}, 'null') AS value,
        COUNT(*) AS with_mirrors,
        COUNTIF(installer_name IS NOT NULL AND installer_name NOT IN UNNEST(@mirror_installers))
          AS without_mirrors
      FROM (
        SELECT
          LOWER(REGEXP_REPLACE(file.project, r'[-_.]+', '-')) AS package,
          details.installer.name AS installer_name,
          {categories}
        FROM `{table}`
        WHERE timestamp >= @start
          AND timestamp < @end
          AND (details.python IS NULL OR REGEXP_CONTAINS(details.python, r'^[0-9]\.[0-9]+')){files}
      )
      GROUP BY GROUPING SETS ((package), {sets})
    )
  )
  GROUP BY package, breakdown, category
)
GROUP BY package
