"""Downloads of the latest day, week and month."""

from typing import Annotated, Literal

import orjson
from fastapi import Query
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from app.api.endpoints import (
    EndpointQuery,
    EndpointRouter,
    Package,
    Payload,
    Rendered,
    not_found,
)
from app.api.schemas import PackageField, example, not_null
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


class RecentQuery(EndpointQuery):
    period: Period | None = Field(None, description="All three when left out.")


class RecentCounts(BaseModel):
    """Downloads up to and including the latest published day, known mirrors excluded. Only the one
    asked for when `period` is given.
    """

    last_day: int | SkipJsonSchema[None] = Field(
        default=None, description="On that day.", ge=0, json_schema_extra=not_null
    )
    last_month: int | SkipJsonSchema[None] = Field(
        default=None, description="In 30 days.", ge=0, json_schema_extra=not_null
    )
    last_week: int | SkipJsonSchema[None] = Field(
        default=None, description="In 7 days.", ge=0, json_schema_extra=not_null
    )


def payload(
    package: str, counts: downloads.RecentDownloads, period: Period | None = None
) -> dict[str, object]:
    """Return the payload of one package, with one period or all."""
    data = {
        "last_day": counts.last_day,
        "last_month": counts.last_month,
        "last_week": counts.last_week,
    }
    if period:
        key = f"last_{period}"
        data = {key: data[key]}
    return {"data": data, "package": package, "type": "recent_downloads"}


class RecentDownloads(Payload):
    """Downloads of the latest day, week and month."""

    model_config = example(
        payload("requests", downloads.RecentDownloads(42817003, 279880123, 1181283420))
    )

    data: RecentCounts
    package: PackageField
    type: Literal["recent_downloads"]


@router.endpoint("/recent", RecentDownloads, summary="Latest day, week and month")
async def recent(
    package: Package, query: Annotated[RecentQuery, Query()], statistics: Statistics
) -> Rendered:
    """Downloads of the latest published day, and of the 7 and 30 days that end with it."""
    counts = await statistics.downloads.recent(package)
    if counts is None:
        raise not_found(package)
    return Rendered(orjson.dumps(payload(package, counts, query.period)))
