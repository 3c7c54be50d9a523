"""The recorded figures of a day: the number of packages, their downloads, and a digest of its rows.

A publish computes them from staged rows and a verification from stored rows, with the same query,
so that they differ only if the rows do.
"""

from collections.abc import Sequence

from app.domain.breakdowns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS


def describe(rows: str, optional_columns: Sequence[str] = OPTIONAL_COLUMNS) -> str:
    """Return a query of a day's `packages`, `downloads`, `downloads_with_mirrors`, `digest` and
    `breakdowns`. `rows` is a relation with the columns of staged rows, without `__all__`.
    """
    # concat_ws omits NULLs, and the value of each optional column follows the column's name. So
    # adding an optional column later changes no digest.
    row_text = ", ".join(
        [
            "name",
            "with_mirrors",
            "without_mirrors",
            *(f"CAST({column} AS text)" for column in REQUIRED_COLUMNS),
            *(f"'{column} ' || CAST({column} AS text)" for column in optional_columns),
        ]
    )
    breakdowns = ", ".join(
        f"CASE WHEN bool_or({column} IS NOT NULL) THEN '{column}' END"
        for column in optional_columns
    )
    # Each row is hashed as text and the hashes are summed, so that rows need no order. Equal counts
    # are stored as equal texts. Without the OFFSET, Postgres would inline the hash into both sums
    # and compute it twice.
    return f"""
SELECT
    count(*) AS packages,
    coalesce(sum(without_mirrors), 0) AS downloads,
    coalesce(sum(with_mirrors), 0) AS downloads_with_mirrors,
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
        {", ".join(optional_columns)},
        encode(sha256(convert_to(concat_ws(' ', {row_text}), 'UTF8')), 'hex') AS hash
    FROM {rows}
    OFFSET 0
) AS hashed
"""
