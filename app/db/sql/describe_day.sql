-- The recorded figures of a day's rows. A publish computes them from staged rows, and a
-- verification from stored rows, so that they differ only if the rows differ. Each row is hashed as
-- text, and the hashes are summed, so that rows need no order. Equal counts are stored as equal
-- texts. Without the OFFSET, Postgres would inline the hash into both sums and compute it twice.
-- concat_ws omits NULLs, and each optional value follows the name of its column, so that a column
-- that is added later changes no digest.
SELECT
    count(*) AS packages,
    CAST(coalesce(sum(without_mirrors), 0) AS bigint) AS downloads,
    CAST(coalesce(sum(with_mirrors), 0) AS bigint) AS downloads_with_mirrors,
    encode(sha256(convert_to(concat_ws(' ',
        count(*),
        sum(CAST(CAST('x' || substr(hash, 1, 16) AS bit(64)) AS bigint)),
        sum(CAST(CAST('x' || substr(hash, 17, 16) AS bit(64)) AS bigint))
    ), 'UTF8')), 'hex') AS digest,
    array_remove(ARRAY[{breakdowns}], NULL) AS breakdowns
FROM (
    SELECT
        with_mirrors,
        without_mirrors,
        {optional_columns},
        encode(sha256(convert_to(concat_ws(' ',
            name, with_mirrors, without_mirrors, {values}
        ), 'UTF8')), 'hex') AS hash
    FROM {rows}
    OFFSET 0
) AS hashed
