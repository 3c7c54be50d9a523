"""What is recorded of a day's rows: how many packages, their downloads, and a digest.

A publish takes it from what is staged, and a verification from what is stored: one definition, so
that nothing but the rows can make the two differ.
"""

from app.breakdowns import BREAKDOWN_COLUMNS

_ROW_TEXT = ", ".join(
    ["name", "with_mirrors", "without_mirrors", *(f"CAST({c} AS text)" for c in BREAKDOWN_COLUMNS)]
)


def describe(rows: str) -> str:
    """The query of `packages`, `downloads`, `downloads_with_mirrors` and `digest` of a day's rows,
    by the name of a relation with the columns of staging that holds them without `__all__`.
    """
    # Each row is hashed as text and the hashes are added up, so that order does not matter and
    # nothing has to be sorted. Equal counts are stored as equal texts.
    return f"""
SELECT
    count(*) AS packages,
    coalesce(sum(without_mirrors), 0) AS downloads,
    coalesce(sum(with_mirrors), 0) AS downloads_with_mirrors,
    encode(sha256(convert_to(concat_ws(' ',
        count(*),
        sum(CAST(CAST('x' || substr(hash, 1, 16) AS bit(64)) AS bigint)),
        sum(CAST(CAST('x' || substr(hash, 17, 16) AS bit(64)) AS bigint))
    ), 'UTF8')), 'hex') AS digest
FROM (
    SELECT
        with_mirrors,
        without_mirrors,
        encode(sha256(convert_to(concat_ws(' ', {_ROW_TEXT}), 'UTF8')), 'hex') AS hash
    FROM {rows}
) AS hashed
"""
