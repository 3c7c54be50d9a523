"""The registry of time series: what each is called, filtered by, and where its categories are kept.

A new breakdown is one entry here, its column in `app.db.tables` with a migration, its expression in
`app/ingest/bigquery.sql`, and its response model in `app.api.schemas`.
"""

from collections.abc import Callable
from dataclasses import dataclass

NULL_CATEGORY = "null"
"""The category of downloads whose value is missing in the source."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """How one package's downloads of a day divide into categories, known mirrors excluded."""

    name: str
    """The last segment of the path. The payload's type is this and `_downloads`."""

    column: str
    """The column of `daily_downloads` with an object of downloads by stored category."""

    category_of: Callable[[str], str] | None = None
    """From the stored category to the one that is served; None where they are the same."""

    @property
    def payload_type(self) -> str:
        return f"{self.name}_downloads"


PYTHON_MAJOR = Breakdown(
    "python_major", column="python_minor", category_of=lambda minor: minor.partition(".")[0]
)
PYTHON_MINOR = Breakdown("python_minor", column="python_minor")
SYSTEM = Breakdown("system", column="system")

BREAKDOWNS = (PYTHON_MAJOR, PYTHON_MINOR, SYSTEM)

BREAKDOWN_COLUMNS = tuple(dict.fromkeys(breakdown.column for breakdown in BREAKDOWNS))
"""The stored columns, each once, in the order in which rows carry them."""
