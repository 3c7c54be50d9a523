"""The recorded figures of a day: its packages, their downloads, and a digest of its rows."""

from collections.abc import Sequence

from app.db.sql import load_sql
from app.domain.breakdowns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS


def describe(rows: str, optional_columns: Sequence[str] = OPTIONAL_COLUMNS) -> str:
    """Return the query for a day's `packages`, `downloads`, `downloads_with_mirrors`, `digest` and
    `breakdowns`. `rows` is a relation with the columns of staged rows, without `__all__`.
    """
    values = [f"CAST({column} AS text)" for column in REQUIRED_COLUMNS]
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
