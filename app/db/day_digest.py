"""What is recorded of a day's rows: how many packages, their downloads, and a digest.

A publish takes it from what is staged, and a verification from what is stored: one definition, so
that nothing but the rows can make the two differ.
"""

from app.domain.breakdowns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS

# concat_ws leaves out what is NULL: an optional breakdown says which it is, and a row that has none
# is the same text as before there were any.
_ROW_TEXT = ", ".join(
    [
        "name",
        "with_mirrors",
        "without_mirrors",
        *(f"CAST({column} AS text)" for column in REQUIRED_COLUMNS),
        *(f"'{column} ' || CAST({column} AS text)" for column in OPTIONAL_COLUMNS),
    ]
)
_BREAKDOWNS = ", ".join(
    f"CASE WHEN bool_or({column} IS NOT NULL) THEN '{column}' END" for column in OPTIONAL_COLUMNS
)


def describe(rows: str) -> str:
    """The query of `packages`, `downloads`, `downloads_with_mirrors`, `digest` and `breakdowns` of
    a day's rows, by the name of a relation with the columns of staging that holds them without
    `__all__`.
    """
    # Each row is hashed as text and the hashes are added up, so that order does not matter and
    # nothing has to be sorted. Equal counts are stored as equal texts. Without the OFFSET Postgres
    # would put the hash in the place of each mention of it, and so make it twice.
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
    array_remove(ARRAY[{_BREAKDOWNS}], NULL) AS breakdowns
FROM (
    SELECT
        with_mirrors,
        without_mirrors,
        {", ".join(OPTIONAL_COLUMNS)},
        encode(sha256(convert_to(concat_ws(' ', {_ROW_TEXT}), 'UTF8')), 'hex') AS hash
    FROM {rows}
    OFFSET 0
) AS hashed
"""
