"""The query of a day in BigQuery, which reads the columns of the breakdowns that are ingested."""

import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

from app.breakdowns import MAX_VERSIONS, NULL_CATEGORY, OTHER_CATEGORY, Implementation, Installer
from app.events import ARTIFACTS_SINCE, CountedFiles

TEMPLATE = (Path(__file__).parent / "bigquery.sql").read_text()


def _known(value: str, names: Iterable[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in names if name not in (OTHER_CATEGORY, NULL_CATEGORY))
    return f"IF({value} IS NULL OR LOWER({value}) IN ({listed}), LOWER({value}), 'other')"


CATEGORIES: Mapping[str, str] = {
    "python_minor": r"REGEXP_EXTRACT(details.python, r'^[0-9]\.[0-9]+')",
    "system": (
        "CASE WHEN details.system.name IN ('Windows', 'Linux', 'Darwin') "
        "THEN LOWER(details.system.name) "
        "WHEN details.system.name IS NOT NULL THEN 'other' END"
    ),
    "installer": _known("details.installer.name", Installer),
    "ci": "CAST(details.ci AS STRING)",
    "country": "REGEXP_EXTRACT(country_code, r'^[A-Z]{2}$')",
    # What is no version that a release could have is not worth its bytes in every row.
    "version": (
        "IF(file.version IS NULL OR REGEXP_CONTAINS(file.version, r'^[!-~]{1,64}$'), "
        "file.version, 'other')"
    ),
    "implementation": _known("details.implementation.name", Implementation),
}
"""By column, the category of a raw download; NULL where it is `null`."""


ONLY_ARTIFACTS = r"REGEXP_CONTAINS(file.filename, r'\.(whl|tar\.gz|zip)$')"
"""Condition that PyPI itself has on what it logs since `ARTIFACTS_SINCE`."""


def day_query(
    table: str, columns: Iterable[str], day: date, counted_files: CountedFiles = CountedFiles.ALL
) -> str:
    """The query of a day whose rows have these columns.

    It reads the names of files only for days on which PyPI has logged others than artifacts too.
    """
    columns = tuple(columns)
    names_decide = counted_files is CountedFiles.ARTIFACTS and day <= ARTIFACTS_SINCE
    parts = {
        "table": table,
        "files": f"\n          AND {ONLY_ARTIFACTS}" if names_decide else "",
        "max_versions": str(MAX_VERSIONS),
        "columns": ", ".join(columns),
        "sets": ", ".join(f"(package, {column})" for column in columns),
        "categories": _lines(10, (f"{CATEGORIES[column]} AS {column}" for column in columns), ","),
        "breakdowns": _lines(
            10, (f"WHEN GROUPING({column}) = 0 THEN '{column}'" for column in columns)
        ),
        "objects": _lines(4, map(_object, columns), r", '\t',"),
    }
    return re.sub(r"\{(\w+)\}", lambda part: parts[part[1]], TEMPLATE)


def _object(column: str) -> str:
    """The inside of a JSON object: categories without a download that counts are left out. In one
    order, so that equal counts are equal texts.
    """
    return (
        f"IFNULL(STRING_AGG(IF(breakdown = '{column}' AND without_mirrors > 0, "
        "CONCAT(TO_JSON_STRING(category), ':', CAST(without_mirrors AS STRING)), NULL), ',' "
        "ORDER BY category), '')"
    )


def _lines(indent: int, lines: Iterable[str], separator: str = "") -> str:
    return f"{separator}\n{' ' * indent}".join(lines)
