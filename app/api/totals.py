"""Downloads of a package by category, summed over a range of days, with shares."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, cast

import orjson
from fastapi import Path, Query
from pydantic import BaseModel, Field, create_model

from app.api import breakdown_series
from app.api.endpoints import EndpointRouter, Package
from app.api.overall import read_overall
from app.api.payloads import PackageField, Payload, RenderedBody, csv_docs, example_config
from app.api.statistics import Statistics
from app.api.time_series import RangeQuery
from app.db.repositories.downloads_repository import WITH_MIRRORS
from app.domain.breakdowns import BREAKDOWNS
from app.domain.choice import Choice
from app.domain.downloads import Series

router = EndpointRouter("/api/packages/{package}", "details")

OVERALL = "overall"

_BREAKDOWNS = {one.name: one for one in BREAKDOWNS}

SummedSeries = cast("Any", Choice)("SummedSeries", {n.upper(): n for n in (OVERALL, *_BREAKDOWNS)})
"""Names of the series that can be summed."""

COLUMNS = ("category", "downloads", "share")

SHARE_DECIMALS = 4


class CategoryTotal(BaseModel):
    """Downloads of one category on the published days of the range that have the breakdown."""

    category: str = Field(description="A category of the breakdown. `null` if it is unknown.")
    downloads: int = Field(description="Number of downloads.", ge=1)
    share: float = Field(
        description="Ratio to the downloads of all categories, or in `overall` to those with "
        f"mirrors, rounded to {SHARE_DECIMALS} decimals.",
        ge=0,
        le=1,
    )


def _payload(name: str, package: str, sums: Mapping[str, int], whole: int) -> dict[str, Any]:
    """Return the payload of one package. Shares are ratios to `whole`."""
    data = [
        {"category": category, "downloads": count, "share": round(count / whole, SHARE_DECIMALS)}
        for category, count in sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    ]
    return {"data": data, "package": package, "type": f"{name}_total"}


_EXAMPLE_SUMS = {"linux": 1340027, "windows": 102377, "darwin": 55623}
_EXAMPLE = _payload("system", "requests", _EXAMPLE_SUMS, sum(_EXAMPLE_SUMS.values()))


class Total(Payload):
    """Downloads of a package by category in a range of days."""

    model_config = example_config(_EXAMPLE)

    data: list[CategoryTotal] = Field(
        description="Ordered by downloads, most first, and then by category. Empty if a known "
        "package has no downloads in the range."
    )
    package: PackageField


_types = {f"{name}_TOTAL".upper(): f"{name}_total" for name in SummedSeries}
_fields: dict[str, Any] = {"type": (StrEnum("TotalType", _types), ...)}
SeriesTotal = create_model("SeriesTotal", __base__=Total, __doc__=Total.__doc__, **_fields)


async def total(
    package: Package,
    breakdown: str,
    query: Annotated[RangeQuery, Query()],
    statistics: Statistics,
) -> RenderedBody:
    """Sum of each category that the series shows by default, over the published days of the range
    that have the breakdown. Known mirrors are excluded, except in `overall`, whose shares are
    ratios to the downloads with mirrors.

    Returns 404 also if this instance does not ingest the breakdown.
    """
    if breakdown == OVERALL:
        sums = _sums((await read_overall(package, query, statistics)).series)
        whole = sums.get(WITH_MIRRORS, 0)
    else:
        one = _BREAKDOWNS[breakdown]
        series = (await breakdown_series.read(one, package, query, statistics)).series
        sums = _sums(breakdown_series.shown(one, series))
        whole = sum(sums.values())
    payload = _payload(breakdown, package, sums, whole)
    rows = (item.values() for item in payload["data"])
    return query.render_table(lambda: orjson.dumps(payload), COLUMNS, rows, is_cacheable=bool(sums))


total.__annotations__["breakdown"] = Annotated[
    SummedSeries, Path(description="Name of the series.", examples=["system"])
]
router.endpoint(
    "/{breakdown}/total",
    SeriesTotal,
    summary="Sums of a series, with shares",
    ok_docs=csv_docs("category,downloads,share\nlinux,1340027,0.8945\nwindows,102377,0.0683\n"),
)(total)


def _sums(series: Series) -> dict[str, int]:
    return {name: sum(downloads for _, downloads in items) for name, items in series.items()}
