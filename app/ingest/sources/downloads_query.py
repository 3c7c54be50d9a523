"""Builds BigQuery's query for a period. It reads only the columns of the ingested breakdowns."""

import re
from collections.abc import Iterable
from pathlib import Path

from app.domain.breakdowns import BREAKDOWNS, EXPRESSIONS
from app.domain.events import ARTIFACTS_SINCE, CountedFiles
from app.domain.months import Period, first_day

TEMPLATE = (Path(__file__).parent / "bigquery.sql").read_text()

LIMITS = {one.column: one.max_categories for one in BREAKDOWNS if one.max_categories}
"""Maximum number of categories per package besides `other`, by column."""

ONLY_ARTIFACTS = r"REGEXP_CONTAINS(file.filename, r'\.(whl|tar\.gz|zip)$')"
"""Condition that selects artifacts, the only files that PyPI logs since `ARTIFACTS_SINCE`."""


def downloads_query(
    table: str,
    columns: Iterable[str],
    period: Period,
    counted_files: CountedFiles = CountedFiles.ALL,
) -> str:
    """Return the query for a period, with one value per row for each of the columns.

    It reads file names only for periods in which PyPI also logged other files than artifacts,
    because reading them is billed.
    """
    columns = tuple(columns)
    names_decide = counted_files is CountedFiles.ARTIFACTS and first_day(period) <= ARTIFACTS_SINCE
    parts = {
        "table": table,
        "files": f"\n          AND {ONLY_ARTIFACTS}" if names_decide else "",
        "limits": " ".join(f"WHEN '{column}' THEN {limit}" for column, limit in LIMITS.items()),
        "columns": ", ".join(columns),
        "sets": ", ".join(f"(package, {column})" for column in columns),
        "categories": _lines(10, (f"{EXPRESSIONS[column]} AS {column}" for column in columns), ","),
        "breakdowns": _lines(
            10, (f"WHEN GROUPING({column}) = 0 THEN '{column}'" for column in columns)
        ),
        "objects": _lines(4, map(_object, columns), r", '\t',"),
    }
    return re.sub(r"\{(\w+)\}", lambda part: parts[part[1]], TEMPLATE)


def _object(column: str) -> str:
    """Return the expression of a column's counts: the text of a JSON object without its braces.

    Categories without downloads are omitted. The others are sorted, so that equal counts have equal
    texts.
    """
    return (
        f"IFNULL(STRING_AGG(IF(breakdown = '{column}' AND without_mirrors > 0, "
        "CONCAT(TO_JSON_STRING(category), ':', CAST(without_mirrors AS STRING)), NULL), ',' "
        "ORDER BY category), '')"
    )


def _lines(indent: int, lines: Iterable[str], separator: str = "") -> str:
    return f"{separator}\n{' ' * indent}".join(lines)
