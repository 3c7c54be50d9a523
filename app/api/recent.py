"""Downloads of the latest day, week and month."""

from typing import Annotated, Any, Literal

import orjson
from fastapi import Query
from pydantic import BaseModel, Field

from app.api.continuous_integration import EXCLUDED_CI_HELP, ExcludedCi, recent_without_ci
from app.api.endpoints import EndpointRouter, Package, not_found
from app.api.payloads import (
    PackageField,
    Payload,
    RenderedBody,
    csv_docs,
    example_config,
    without_default,
)
from app.api.queries import TableQuery
from app.api.statistics import Statistics
from app.domain import downloads
from app.domain.choice import Choice

router = EndpointRouter("/api/packages/{package}", "packages")


class Period(Choice):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"

    def count_in(self, counts: downloads.RecentDownloads) -> int:
        """Return the downloads in this period."""
        count: int = getattr(counts, f"last_{self}")
        return count


class RecentQuery(TableQuery):
    period: Period | None = Field(
        None, description="Period of the count that is returned. All three by default."
    )
    ci: ExcludedCi | None = Field(None, description=EXCLUDED_CI_HELP)


class RecentCounts(BaseModel):
    """Downloads up to and including the latest published day, known mirrors excluded. With `period`
    only the requested count is present.
    """

    last_day: int = Field(0, description="On that day.", ge=0, json_schema_extra=without_default)
    last_month: int = Field(0, description="In 30 days.", ge=0, json_schema_extra=without_default)
    last_week: int = Field(0, description="In 7 days.", ge=0, json_schema_extra=without_default)


def columns(period: Period | None) -> tuple[str, ...]:
    """Return the columns of the table: the package and the requested counts."""
    keys = (f"last_{period}",) if period else ("last_day", "last_month", "last_week")
    return ("package", *keys)


def payload(
    package: str, counts: downloads.RecentDownloads, period: Period | None = None
) -> dict[str, Any]:
    """Return the payload of one package, with the requested counts."""
    data = {name: getattr(counts, name) for name in columns(period)[1:]}
    return {"data": data, "package": package, "type": "recent_downloads"}


RECENT_EXAMPLE = payload("requests", downloads.RecentDownloads(42817003, 279880123, 1181283420))


class RecentDownloads(Payload):
    """Downloads of the latest day, week and month."""

    model_config = example_config(RECENT_EXAMPLE)

    data: RecentCounts
    package: PackageField
    type: Literal["recent_downloads"]


@router.endpoint(
    "/recent",
    RecentDownloads,
    summary="Latest day, week and month",
    ok_docs=csv_docs(
        "package,last_day,last_month,last_week\nrequests,42817003,1181283420,279880123\n"
    ),
)
async def recent(
    package: Package, query: Annotated[RecentQuery, Query()], statistics: Statistics
) -> RenderedBody:
    """Downloads of the latest published day, and of the 7 and 30 days that end with it."""
    counts = await read_recent(package, query.period, query.ci, statistics)
    if counts is None:
        raise await not_found(package, statistics)
    result = payload(package, counts, query.period)
    rows = [(package, *result["data"].values())]
    return query.render_table(lambda: orjson.dumps(result), columns(query.period), rows)


async def read_recent(
    package: str, period: Period | None, ci: ExcludedCi | None, statistics: Statistics
) -> downloads.RecentDownloads | None:
    """Return a package's downloads, or None if it has none in the days served."""
    if ci:
        return (await recent_without_ci([package], period, statistics)).get(package)
    return await statistics.downloads.recent(package)
