"""Content of badges that shields.io draws, for its "endpoint badge"."""

from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import Field

from app.api.continuous_integration import EXCLUDED_CI_HELP, ExcludedCi
from app.api.endpoints import EndpointRouter, Package, never_downloaded, not_found
from app.api.limit_rules import BADGES_PATH
from app.api.payloads import Payload, RenderedBody, example_config
from app.api.queries import EndpointQuery
from app.api.recent import Period, read_recent
from app.api.statistics import Statistics
from app.domain.choice import Choice
from app.errors import ArgumentError, InvalidArgumentsError

CACHE_SECONDS = 3600
"""How long shields.io may cache a badge. Figures change once a day."""

router = EndpointRouter(f"{BADGES_PATH}{{package}}", "badges")


class BadgePeriod(Choice):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"
    """All known days."""


_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))

_COLORS = ((1, "red"), (10, "yellow"), (100, "yellowgreen"), (1000, "green"))
"""Colors of counts below these bounds. Larger counts are `brightgreen`."""


class BadgeQuery(EndpointQuery):
    ci: ExcludedCi | None = Field(
        None, description=f"{EXCLUDED_CI_HELP} Not allowed with the period `total`."
    )


class Badge(Payload):
    """The content of a badge, in shields.io's own schema."""

    model_config = example_config(
        {"schemaVersion": 1, "label": "downloads", "message": "1.2B/month"}
        | {"color": "brightgreen", "cacheSeconds": CACHE_SECONDS}
    )

    schemaVersion: Literal[1]  # noqa: N815 - shields.io's name.
    label: str = Field(description="Left side of the badge.")
    message: str = Field(description="Right side of the badge: downloads, known mirrors excluded.")
    color: str = Field(
        description="Color of the right side, from `red` for 0 downloads to `brightgreen` from "
        "1,000 downloads on."
    )
    cacheSeconds: int = Field(  # noqa: N815 - shields.io's name.
        description="Seconds for which the badge may be cached."
    )


@router.endpoint(
    "/{period}",
    Badge,
    summary="Badge of shields.io",
    description="Content of a badge. The badge itself is at `https://img.shields.io/endpoint?url=`"
    ", followed by the address of this endpoint.",
)
async def badge(
    package: Package,
    period: Annotated[
        BadgePeriod,
        Path(
            description="Period that ends with the latest published day: `day`, `week`, `month`, "
            "or `total` for all known days (`/api/packages/{package}/history`).",
            examples=["month"],
        ),
    ],
    query: Annotated[BadgeQuery, Query()],
    statistics: Statistics,
) -> RenderedBody:
    if period is BadgePeriod.TOTAL:
        if query.ci:
            raise InvalidArgumentsError([ArgumentError("ci", "can't be combined with total")])
        known = statistics.publication.history_of([package])
        months = await statistics.downloads.history(package, known)
        if not months:
            raise never_downloaded(package)
        downloads = sum(one.without_mirrors for one in months)
    else:
        recent = await read_recent(package, Period(period), query.ci, statistics)
        if recent is None:
            raise await not_found(package, statistics)
        downloads = Period(period).count_in(recent)
    per = " total" if period is BadgePeriod.TOTAL else f"/{period}"
    payload = Badge(
        schemaVersion=1,
        label="downloads",
        message=f"{in_short(downloads)}{per}",
        color=color_of(downloads),
        cacheSeconds=CACHE_SECONDS,
    )
    return RenderedBody(payload.to_json())


def in_short(count: int) -> str:
    """Shorten a count as shields.io does, rounded, to texts such as `9.9k`, `10k` and `999k`.

    10^9 is `B` (billion). shields.io writes `G` instead, the prefix of units of measurement.
    """
    larger = ""
    for size, unit in _UNITS:
        if count >= size:
            tenths = (10 * count + size // 2) // size
            if tenths < 100:
                return f"{tenths / 10:g}{unit}"
            whole = (count + size // 2) // size
            return f"1{larger}" if whole >= 1000 and larger else f"{whole}{unit}"
        larger = unit
    return str(count)


def color_of(count: int) -> str:
    """Return the color that shields.io gives to a count of downloads."""
    return next((color for below, color in _COLORS if count < below), "brightgreen")
