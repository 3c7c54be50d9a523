"""Downloads of a package by category, summed over a range of days, with shares."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import orjson
from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, create_model

from app.api import breakdown_series
from app.api.endpoints import EndpointRouter, Package, not_found
from app.api.payloads import PackageField, Payload, Rendered, csv_too, example
from app.api.statistics import Statistics
from app.api.time_series import RangeQuery
from app.db.repositories.downloads_repository import WITH_MIRRORS, WITHOUT_MIRRORS
from app.domain.breakdowns import BREAKDOWNS, Breakdown
from app.domain.downloads import Series

router = EndpointRouter("/api/packages/{package}", "details")

COLUMNS = ("category", "downloads", "share")

SHARE_DECIMALS = 4


class CategoryTotal(BaseModel):
    """Downloads of one category on the published days of the range that have the breakdown."""

    category: str = Field(description="A category of the breakdown. `null` if it is unknown.")
    downloads: int = Field(description="Number of downloads.", ge=1)
    share: float = Field(
        description=f"Ratio to the downloads of all categories, rounded to {SHARE_DECIMALS} "
        "decimals.",
        ge=0,
        le=1,
    )


class Total(Payload):
    data: list[CategoryTotal] = Field(
        description="Ordered by downloads, most first, and then by category. Empty if the package "
        "exists and has no downloads in the range."
    )
    package: PackageField


def _sums(series: Series) -> dict[str, int]:
    return {name: sum(downloads for _, downloads in items) for name, items in series.items()}


def _payload(
    payload_type: str, package: str, sums: Mapping[str, int], whole: int
) -> dict[str, Any]:
    """Return the payload of one package. Shares are ratios to `whole`."""
    data = [
        {"category": name, "downloads": count, "share": round(count / whole, SHARE_DECIMALS)}
        for name, count in sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    ]
    return {"data": data, "package": package, "type": payload_type}


def _render(query: RangeQuery, payload: dict[str, Any]) -> Rendered:
    rows = (one.values() for one in payload["data"])
    return query.render_table(
        lambda: orjson.dumps(payload), COLUMNS, rows, is_cacheable=bool(payload["data"])
    )


def _example(payload_type: str, sums: Mapping[str, int], whole: int) -> ConfigDict:
    return example(_payload(payload_type, "requests", sums, whole))


def _csv_too(model: type[Total]) -> Mapping[str, Any]:
    """Document CSV with the first item of the model's example."""
    extra = model.model_config["json_schema_extra"]
    assert isinstance(extra, dict)
    (payload,) = cast("list[dict[str, Any]]", extra["examples"])
    lines = (COLUMNS, payload["data"][0].values())
    return csv_too("".join(f"{','.join(map(str, line))}\n" for line in lines))


class OverallTotal(Total):
    """Downloads in a range of days, with and without known mirrors."""

    model_config = _example(
        "overall_total", {WITH_MIRRORS: 1520331, WITHOUT_MIRRORS: 1498027}, whole=1520331
    )

    type: Literal["overall_total"]


@router.endpoint(
    "/overall/total",
    OverallTotal,
    summary="Sum, with and without mirrors",
    ok=_csv_too(OverallTotal),
)
async def overall_total(
    package: Package, query: Annotated[RangeQuery, Query()], statistics: Statistics
) -> Rendered:
    """Downloads in a range of days, with and without known mirrors. Shares are ratios to those with
    mirrors.
    """
    window = statistics.publication.window
    found = await statistics.downloads.overall([package], window, query.days(window))
    if package not in found:
        raise not_found(package)
    sums = _sums(found[package].series)
    whole = sums.get(WITH_MIRRORS, 0)
    return _render(query, _payload("overall_total", package, sums, whole))


def _declare(breakdown: Breakdown) -> None:
    """Declare the endpoint of a breakdown."""
    payload_type = f"{breakdown.name}_total"
    described = f"Downloads in a range of days by {breakdown.by}, known mirrors excluded."
    fields: dict[str, Any] = {"type": (Literal[payload_type], ...)}
    model = create_model(f"{breakdown.title}Total", __base__=Total, __doc__=described, **fields)
    sums = {name: 1498027 // 2**place for place, name in enumerate(breakdown.examples)}
    model.model_config = _example(payload_type, sums, sum(sums.values()))
    model.model_rebuild(force=True)

    async def total(
        package: Package, query: Annotated[RangeQuery, Query()], statistics: Statistics
    ) -> Rendered:
        found = await breakdown_series.read(breakdown, package, query, statistics)
        sums = _sums(breakdown_series.shown(breakdown, found.series))
        return _render(query, _payload(payload_type, package, sums, sum(sums.values())))

    router.endpoint(
        f"/{breakdown.name}/total",
        model,
        operation_id=f"get_{payload_type}",
        summary=f"Sum by {breakdown.by}",
        description=described + breakdown_series.availability(breakdown),
        ok=_csv_too(model),
    )(total)


for _breakdown in BREAKDOWNS:
    _declare(_breakdown)
