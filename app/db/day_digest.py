"""What is recorded of a day's rows: the number of packages, their downloads, and a digest.

A publish computes it from staged rows and a verification from stored rows, by one definition, so
that only different rows can make the two differ.
"""

from collections.abc import Sequence

from app.domain.breakdowns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS


def describe(rows: str, optional_columns: Sequence[str] = OPTIONAL_COLUMNS) -> str:
    """Return the query of `packages`, `downloads`, `downloads_with_mirrors`, `digest` and
    `breakdowns` of a day's rows, without `__all__`, in a relation with the columns of staging.
    """
    # concat_ws leaves out NULLs, and each optional breakdown brings its name: an optional column
    # that is added later changes no digest.
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
    # Each row is hashed as text and the hashes are added up, so that order does not matter and
    # nothing has to be sorted. Equal counts are stored as equal texts. Without the OFFSET, Postgres
    # would inline the hash into both sums, and compute it twice.
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
