"""Rows of dumps: the checks that are the same in every format."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.domain.breakdowns import BREAKDOWN_COLUMNS, REQUIRED_COLUMNS
from app.domain.downloads import Counts, PackageDownloads
from app.dumps.formats import limits
from app.dumps.listing import TOTAL_COLUMNS
from app.errors import MalformedDumpError

Rows = Sequence[PackageDownloads]
Write = Callable[[Rows], None]

TOO_MANY: Counts = {"": 0}
"""Replaces a breakdown with too many categories. No count may be zero, so the pipeline counts the
row as wrong, and the rest of the file is read.
"""


def checked_row(place: str, values: Mapping[str, Any]) -> PackageDownloads:
    """Return a row from values by column, and check their types. A null breakdown counts as
    missing. The pipeline checks the counts.
    """
    package = values.get("package")
    if type(package) is not str:
        raise MalformedDumpError(f"{place} has no package")
    if len(package) > limits.MAX_PACKAGE_CHARACTERS:
        raise MalformedDumpError(
            f"{place} has a package with a name of more than "
            f"{limits.MAX_PACKAGE_CHARACTERS:,} characters"
        )
    for column in TOTAL_COLUMNS[1:]:
        if type(values.get(column)) is not int:
            raise MalformedDumpError(f"{place} should have an integer for {column}")
    breakdowns = {}
    for column in BREAKDOWN_COLUMNS:
        counts = values.get(column)
        if counts is None and column not in REQUIRED_COLUMNS:
            continue
        if type(counts) is not dict:
            raise MalformedDumpError(f"{place} should have an object for {column}")
        if not all(category and category.isprintable() for category in counts):
            raise MalformedDumpError(f"{place} has an invalid category for {column}")
        is_small = weight(counts) <= limits.MAX_BREAKDOWN_WEIGHT
        breakdowns[column] = counts if is_small else TOO_MANY
    return PackageDownloads(package, values["with_mirrors"], values["without_mirrors"], breakdowns)


def weight(counts: Counts) -> int:
    return len(counts) * limits.CATEGORY_WEIGHT + sum(map(len, counts))


def first_line(error: Exception) -> str:
    """Return the first line of another library's message, which may be long."""
    return str(error).strip().partition("\n")[0][:200]
