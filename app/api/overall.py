"""Downloads of a package by day, with and without mirrors."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Query
from pydantic import Field, ValidationInfo, field_validator

from app.api.continuous_integration import EXCLUDED_CI_HELP, ExcludedCi, overall_without_ci
from app.api.endpoints import EndpointRouter, Package, not_found
from app.api.payloads import RenderedBody
from app.api.statistics import Statistics
from app.api.time_series import (
    CSV_DOCS,
    RangeQuery,
    SeriesPayload,
    SeriesQuery,
    only,
    render,
    series_example,
)
from app.db.repositories.downloads_repository import WITH_MIRRORS, WITHOUT_MIRRORS, SeriesResult
from app.domain.choice import Choice

router = EndpointRouter("/api/packages/{package}", "packages")


class Mirrors(Choice):
    TRUE = "true"
    FALSE = "false"


class OverallQuery(SeriesQuery):
    """Arguments of `overall`."""

    mirrors: Mirrors | None = Field(
        None,
        description="`true` includes known mirrors and downloads without an installer's name, and "
        "`false` excludes them. Default: both.",
    )
    ci: ExcludedCi | None = Field(
        None,
        description=f"{EXCLUDED_CI_HELP} The response has only the category `without_mirrors`, and "
        "only days with that breakdown. Not allowed with `mirrors=true`.",
    )

    @field_validator("ci")
    @classmethod
    def _check_mirrors(cls, ci: ExcludedCi | None, info: ValidationInfo) -> ExcludedCi | None:
        if ci and info.data.get("mirrors") is Mirrors.TRUE:
            raise ValueError("can't be combined with mirrors=true")
        return ci

    @property
    def category(self) -> str | None:
        if self.mirrors is None:
            return None
        return WITH_MIRRORS if self.mirrors is Mirrors.TRUE else WITHOUT_MIRRORS


class OverallDownloads(SeriesPayload):
    """Downloads by day, with and without known mirrors."""

    model_config = series_example("overall_downloads", WITH_MIRRORS, WITHOUT_MIRRORS)

    type: Literal["overall_downloads"]


@router.endpoint(
    "/overall", OverallDownloads, summary="By day, with and without mirrors", ok_docs=CSV_DOCS
)
async def overall(
    package: Package, query: Annotated[OverallQuery, Query()], statistics: Statistics
) -> RenderedBody:
    """Downloads by day, with and without known mirrors."""
    results = await read_many([package], query, statistics)
    if package not in results:
        raise await not_found(package, statistics)
    return await render(query, "overall_downloads", package, results[package], statistics)


async def read_many(
    names: Sequence[str], query: OverallQuery, statistics: Statistics
) -> dict[str, SeriesResult]:
    """Read the requested categories by package. Packages without a download in the days served are
    omitted. Raises `NotFoundError`.
    """
    range_ = query.range_in(statistics.publication, names)
    with_days = query.needs_published_days
    if query.ci:
        return await overall_without_ci(names, range_, statistics, with_days=with_days)
    found = await statistics.downloads.overall(names, range_, with_days=with_days)
    return {
        name: result._replace(series=only(result.series, query.category))
        for name, result in found.items()
    }


async def read_overall(
    package: str, query: RangeQuery, statistics: Statistics, *, with_days: bool = False
) -> SeriesResult:
    """Read both categories of the days that the query needs. Raises `NotFoundError`."""
    found = await statistics.downloads.overall(
        [package], query.range_in(statistics.publication, [package]), with_days=with_days
    )
    if package not in found:
        raise await not_found(package, statistics)
    return found[package]
