"""Badges of shields.io, which asks here for what to write on them: its endpoint badge."""

from typing import Annotated, Literal

import orjson
from fastapi import Path
from pydantic import BaseModel, Field

from app.api.endpoints import EndpointRouter, Package, Rendered, not_found
from app.api.recent import Period
from app.api.schemas import example
from app.api.statistics import Statistics

CACHE_SECONDS = 3600
"""For which a badge may be kept: figures change once a day, and nobody knows here when they do."""

router = EndpointRouter("/api/badges/{package}", "badges")

_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))

_COLORS = ((1, "red"), (10, "yellow"), (100, "yellowgreen"), (1000, "green"))
"""Below so many downloads. From the last on it is `brightgreen`."""


class Badge(BaseModel):
    """What shields.io writes on a badge, in its own schema."""

    model_config = example(
        {
            "schemaVersion": 1,
            "label": "downloads",
            "message": "1.2B/month",
            "color": "brightgreen",
            "cacheSeconds": CACHE_SECONDS,
        }
    )

    schemaVersion: Literal[1]  # noqa: N815 - shields.io's name.
    label: str = Field(description="Its left side.")
    message: str = Field(description="Its right side: downloads, known mirrors excluded.")
    color: str = Field(description="Of the right side: red without a download, green with many.")
    cacheSeconds: int = Field(  # noqa: N815 - shields.io's name.
        description="For how long it may be kept."
    )


@router.endpoint(
    "/{period}",
    Badge,
    summary="Badge of shields.io",
    description="For `https://img.shields.io/endpoint?url=`, followed by this address.",
)
async def badge(
    package: Package,
    period: Annotated[
        Period, Path(description="That ends with the latest published day.", examples=["month"])
    ],
    statistics: Statistics,
) -> Rendered:
    recent = await statistics.downloads.recent(package)
    if recent is None:
        raise not_found(package)
    downloads = {
        Period.DAY: recent.last_day,
        Period.WEEK: recent.last_week,
        Period.MONTH: recent.last_month,
    }[period]
    body = {
        "schemaVersion": 1,
        "label": "downloads",
        "message": f"{in_short(downloads)}/{period}",
        "color": color_of(downloads),
        "cacheSeconds": CACHE_SECONDS,
    }
    return Rendered(orjson.dumps(body))


def in_short(count: int) -> str:
    """As shields.io writes counts: two digits of what is below ten of a unit, three of other
    counts, rounded; but a thousand million is `B`, where it has the `G` of units of measurement.
    """
    for number, (size, unit) in enumerate(_UNITS):
        if count < size:
            continue
        tenths = (10 * count + size // 2) // size
        if tenths < 100:
            return f"{tenths / 10:g}{unit}"
        whole = (count + size // 2) // size
        if whole >= 1000 and number > 0:
            return f"1{_UNITS[number - 1][1]}"
        return f"{whole}{unit}"
    return str(count)


def color_of(count: int) -> str:
    """By the bounds that shields.io has for downloads."""
    return next((color for below, color in _COLORS if count < below), "brightgreen")
