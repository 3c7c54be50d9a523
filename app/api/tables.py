"""Flat tables, which clients can have as CSV instead of JSON."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from pydantic import Field

from app.api.endpoints import EndpointQuery, Rendered
from app.domain.choice import Choice

CSV = b"text/csv; charset=utf-8"


class TableFormat(Choice):
    JSON = "json"
    CSV = "csv"


class TableQuery(EndpointQuery):
    """Arguments of an endpoint whose payload is a flat table."""

    format: TableFormat = Field(
        TableFormat.JSON,
        description="Takes precedence over the Accept header. Generated clients with types expect "
        "JSON.",
    )

    def render_table(
        self,
        render_json: Callable[[], bytes],
        head: Sequence[str],
        rows: Iterable[Iterable[object]],
        *,
        is_cacheable: bool = True,
    ) -> Rendered:
        """Render a payload as JSON, or its rows as CSV (RFC 4180)."""
        if self.format is TableFormat.JSON:
            return Rendered(render_json(), is_cacheable=is_cacheable)
        table = StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(head)
        writer.writerows(rows)
        return Rendered(table.getvalue().encode(), CSV, is_cacheable)


def csv_too(example: str) -> Mapping[str, Any]:
    """Return the documentation of a response that is available as CSV as well."""
    schema = {"schema": {"type": "string"}, "example": example.replace("\n", "\r\n")}
    return {"content": {"text/csv": schema}}
