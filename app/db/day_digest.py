"""The recorded figures of a day or month: packages, their downloads, and a digest of the rows."""

from collections.abc import Sequence

from app.db.sql import load_sql
from app.domain.breakdowns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS


def figures_query(
    rows: str,
    optional_columns: Sequence[str] = OPTIONAL_COLUMNS,
    required_columns: Sequence[str] = REQUIRED_COLUMNS,
) -> str:
    """Return the query for `packages`, `downloads`, `downloads_with_mirrors`, `digest` and
    `breakdowns`: those of the optional columns that some rows have. `rows` is a relation with the
    columns of staged rows, without `__all__`.
    """
    values = [f"CAST({column} AS text)" for column in required_columns]
    values += [f"'{column} ' || CAST({column} AS text)" for column in optional_columns]
    breakdowns = (
        f"CASE WHEN bool_or({one} IS NOT NULL) THEN '{one}' END" for one in optional_columns
    )
    return load_sql(
        "describe_day",
        rows=rows,
        values=", ".join(values),
        breakdowns=", ".join(breakdowns),
        optional_columns=", ".join(optional_columns),
    )
