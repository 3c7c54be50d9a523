-- One UTC day of raw downloads, one row a package.
--
-- The counting rules are those of the public service:
--   * A download counts if its Python version is missing or starts like one (X.Y).
--   * with_mirrors counts them all. Everything else leaves out known mirrors, and downloads without
--     an installer.
--   * Packages are keyed by their normalised name (PEP 503).
--
-- The table is read once, one day's partition of it: GROUPING SETS counts the package as a whole
-- and by each breakdown from the same scan. A breakdown leaves here as the inside of a JSON object,
-- which is far shorter on the way than an array of structs, and nothing has to take it apart twice.
--
-- Parameters: the day's bounds, start and end, and mirror_installers.
SELECT
  package,
  SUM(IF(breakdown = 'none', with_mirrors, 0)) AS with_mirrors,
  SUM(IF(breakdown = 'none', without_mirrors, 0)) AS without_mirrors,
  STRING_AGG(
    IF(
      breakdown = 'python_minor' AND without_mirrors > 0,
      CONCAT(TO_JSON_STRING(IFNULL(python_minor, 'null')), ':', CAST(without_mirrors AS STRING)),
      NULL
    ),
    ','
  ) AS python_minor,
  STRING_AGG(
    IF(
      breakdown = 'system' AND without_mirrors > 0,
      CONCAT(TO_JSON_STRING(IFNULL(system, 'null')), ':', CAST(without_mirrors AS STRING)),
      NULL
    ),
    ','
  ) AS system
FROM (
  SELECT
    package,
    python_minor,
    system,
    CASE
      WHEN GROUPING(python_minor) = 0 THEN 'python_minor'
      WHEN GROUPING(system) = 0 THEN 'system'
      ELSE 'none'
    END AS breakdown,
    COUNT(*) AS with_mirrors,
    COUNTIF(installer IS NOT NULL AND installer NOT IN UNNEST(@mirror_installers))
      AS without_mirrors
  FROM (
    SELECT
      LOWER(REGEXP_REPLACE(file.project, r'[-_.]+', '-')) AS package,
      REGEXP_EXTRACT(details.python, r'^[0-9]\.[0-9]+') AS python_minor,
      CASE
        WHEN details.system.name IN ('Windows', 'Linux', 'Darwin') THEN LOWER(details.system.name)
        WHEN details.system.name IS NOT NULL THEN 'other'
      END AS system,
      details.installer.name AS installer
    FROM `{table}`
    WHERE timestamp >= @start
      AND timestamp < @end
      AND (details.python IS NULL OR REGEXP_CONTAINS(details.python, r'^[0-9]\.[0-9]+'))
  )
  GROUP BY GROUPING SETS ((package), (package, python_minor), (package, system))
)
GROUP BY package
