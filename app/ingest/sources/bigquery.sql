-- Counts the raw downloads of a day or a month, with one row per package. If only some packages are
-- followed, it counts several days, with one row per day and package. Days are UTC days.
--
-- The counting rules are those of the public service:
--   * All files that PyPI has logged count, or only artifacts (INGEST_COUNTED_FILES).
--   * A download counts if it has no Python version, or one that begins with X.Y.
--   * with_mirrors counts all of them. All other figures exclude known mirrors and downloads
--     without an installer.
--   * Packages are keyed by their normalised name (PEP 503).
--
-- The query scans the partitions of these days once: GROUPING SETS counts each package in total and
-- by each breakdown. A breakdown is returned as the text between the braces of a JSON object, which
-- is far shorter than an array of structs.
--
-- A row is returned as one text with values separated by tabs: with_mirrors, without_mirrors, each
-- breakdown in the order of the columns, package. BigQuery wraps each value of a response in an
-- object, which takes longer to parse than the value. TO_JSON_STRING escapes tabs. Names may contain
-- tabs, so they come last.
--
-- If a breakdown has a limit, only a package's most downloaded categories of the period are counted
-- separately, and the rest counts as `other`. A package may have thousands of releases.
--
-- `downloads_query.py` replaces the names in braces: by the table, by the conditions on file names
-- and packages if they are needed, by the limits, and by the columns of the ingested breakdowns, so that no other
-- columns are billed.
--
-- Parameters: start and end, the moments between which downloads are counted, mirror_installers, and
-- packages, if only some are followed.
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
    IF(place > CASE breakdown {limits} END, 'other', value) AS category,
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
          {package} AS package,
          details.installer.name AS installer_name,
          {categories}
        FROM `{table}`
        WHERE timestamp >= @start
          AND timestamp < @end
          AND (details.python IS NULL OR REGEXP_CONTAINS(details.python, r'^[0-9]\.[0-9]+')){conditions}
      )
      GROUP BY GROUPING SETS ((package), {sets})
    )
  )
  GROUP BY package, breakdown, category
)
GROUP BY package
