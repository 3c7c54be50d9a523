"""Builds BigQuery's query for a period. It reads only the columns of the ingested breakdowns."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from app.domain.breakdowns import BREAKDOWNS, EXPRESSIONS
from app.domain.events import ARTIFACTS_SINCE, CountedFiles
from app.domain.months import Month, Period, first_day

TEMPLATE = (Path(__file__).parent / "bigquery.sql").read_text()

LIMITS = {one.column: one.max_categories for one in BREAKDOWNS if one.max_categories}
"""Maximum number of categories per package besides `other`, by column."""

ONLY_ARTIFACTS = r"REGEXP_CONTAINS(file.filename, r'\.(whl|tar\.gz|zip)$')"
"""Condition that selects artifacts, the only files that PyPI logs since `ARTIFACTS_SINCE`."""


MAX_BEGINNING = 16
"""Number of characters of a name in which all other spellings are listed. BigQuery refuses queries
of more than 1,048,576 characters, and the spellings of whole names are longer for 1,000 long names.
"""

PACKAGE = "LOWER(REGEXP_REPLACE(file.project, r'[-_.]+', '-'))"
"""Expression of a download's package."""

DAY_AND_PACKAGE = rf"CONCAT(CAST(DATE(timestamp) AS STRING), '\t', {PACKAGE})"
"""Expression that replaces `PACKAGE` in a query that counts several days separately."""


def downloads_query(
    table: str,
    columns: Iterable[str],
    period: Period,
    counted_files: CountedFiles = CountedFiles.ALL,
    packages: Sequence[str] = (),
) -> str:
    """Return the query for a period, with one value per row for each of the columns.

    It reads file names only for periods in which PyPI also logged other files than artifacts,
    because reading them is billed. If `packages` are named, it counts only those, and a day's query
    counts several days, so that the day and a tab precede each row's package.
    """
    columns = tuple(columns)
    names_decide = reads_file_names(period, counted_files)
    conditions = [*([ONLY_ARTIFACTS] if names_decide else ()), *_followed_conditions(packages)]
    has_days = packages and not isinstance(period, Month)
    parts = {
        "table": table,
        "package": DAY_AND_PACKAGE if has_days else PACKAGE,
        "conditions": "".join(f"\n          AND {condition}" for condition in conditions),
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


def reads_file_names(period: Period, counted_files: CountedFiles) -> bool:
    """Return True if the query for a period reads the names of files."""
    return counted_files is CountedFiles.ARTIFACTS and first_day(period) <= ARTIFACTS_SINCE


def _followed_conditions(packages: Sequence[str]) -> list[str]:
    """Return the conditions that select the downloads of these packages, in any spelling.

    The table is clustered by `project`, which contains the same name as `file.project`. BigQuery
    skips the blocks of other packages only if a condition compares the column itself. So the first
    condition lists the normalised names, and the beginnings of all other spellings. PyPI logs
    normalised names, so the others are rare, and nearly no blocks are read for them.
    """
    if not packages:
        return []
    others = sorted({one for name in packages for one in _other_beginnings(name)})
    spellings = ["project IN UNNEST(@packages)"]
    spellings += [f"STARTS_WITH(project, '{beginning}')" for beginning in others]
    return [f"({' OR '.join(spellings)})", f"{PACKAGE} IN UNNEST(@packages)"]


def _other_beginnings(name: str) -> Iterator[str]:
    """Yield the beginnings of all other spellings of a normalised name: up to the first character
    that differs, which is a capital, another separator, or a repeated separator. Spellings that
    begin like the name for `MAX_BEGINNING` characters share one beginning.
    """
    if len(name) > MAX_BEGINNING:
        yield name[:MAX_BEGINNING]
    for position, character in enumerate(name[:MAX_BEGINNING]):
        before = name[:position]
        if character == "-":
            yield from (f"{before}_", f"{before}.")
            continue
        if character.isalpha():
            yield before + character.upper()
        if character == "k":
            # BigQuery lowers the Kelvin sign to the letter k.
            yield f"{before}\u212a"
        if before.endswith("-"):
            yield from (f"{before}-", f"{before}_", f"{before}.")


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
