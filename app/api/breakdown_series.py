"""Downloads of a package by day and category: an endpoint for each breakdown of the registry."""

import re
from functools import cache, partial
from typing import Annotated, Any, Literal, cast

from fastapi import Query
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, create_model

from app.api.endpoints import EndpointRouter, Package, not_found
from app.api.ingested import check_ingested
from app.api.payloads import RenderedBody
from app.api.queries import invalid_arguments
from app.api.statistics import Statistics
from app.api.time_series import (
    CSV_DOCS,
    MAX_CATEGORIES,
    RangeQuery,
    SeriesPayload,
    SeriesQuery,
    only,
    render,
    series_example,
)
from app.db.repositories.downloads_repository import SeriesResult
from app.domain.breakdowns import BREAKDOWNS, NULL_CATEGORY, OTHER_CATEGORY, Breakdown
from app.domain.choice import Choice, lower_ascii
from app.domain.downloads import Series
from app.domain.package_name import ALL_PACKAGES
from app.domain.series import most_downloaded
from app.errors import NotFoundError

router = EndpointRouter("/api/packages/{package}", "packages")

ALL_CATEGORIES = "all"
"""Value of a filter that selects all categories of a breakdown that shows only some by default."""


def _declare(breakdown: Breakdown) -> None:
    """Declare the endpoint of a breakdown."""
    fields: dict[str, Any] = {breakdown.argument: _filter(breakdown)}
    query_model = create_model(f"{breakdown.title}Query", __base__=SeriesQuery, **fields)
    described = f"Downloads by day and {breakdown.by}, known mirrors excluded."
    fields = {"type": (Literal[breakdown.payload_type], ...)}
    payload_model = create_model(
        f"{breakdown.title}Downloads", __base__=SeriesPayload, __doc__=described, **fields
    )
    payload_model.model_config = series_example(breakdown.payload_type, *breakdown.examples)
    payload_model.model_rebuild(force=True)

    async def series(package: Package, query: SeriesQuery, statistics: Statistics) -> RenderedBody:
        found = await read(
            breakdown, package, query, statistics, with_days=query.needs_published_days
        )
        category: str | None = getattr(query, breakdown.argument)
        found = found._replace(series=selected(breakdown, category, found.series))
        return await render(query, breakdown.payload_type, package, found, statistics)

    series.__annotations__["query"] = Annotated[query_model, Query()]
    if breakdown.is_optional:
        also = f", and for `{ALL_PACKAGES}`" if breakdown.is_of_one_package else ""
        described += f"\n\nReturns 404 also if this instance does not ingest the breakdown{also}."
    router.endpoint(
        f"/{breakdown.name}",
        payload_model,
        operation_id=f"get_{breakdown.name}",
        summary=f"By day and {breakdown.by}",
        description=described,
        ok_docs=CSV_DOCS,
        tags=["details" if breakdown.is_optional else "packages"],
    )(series)


async def read(
    breakdown: Breakdown,
    package: str,
    query: RangeQuery,
    statistics: Statistics,
    *,
    with_days: bool = False,
) -> SeriesResult:
    """Read all categories of the requested days. Raises `NotFoundError`."""
    if breakdown.is_of_one_package and package == ALL_PACKAGES:
        raise NotFoundError(
            f"{ALL_PACKAGES} does not have the breakdown {breakdown.name}, which exists only for "
            "single packages."
        )
    range_ = query.range_in(statistics.publication, [package])
    check_ingested(breakdown, statistics.publication, range_)
    found = await statistics.downloads.breakdown(package, range_, breakdown, with_days=with_days)
    if found is None:
        raise await not_found(package, statistics)
    return found


def selected(breakdown: Breakdown, category: str | None, series: Series) -> Series:
    """Return the categories that an argument selects."""
    if category is None:
        return shown(breakdown, series)
    if breakdown.shown_categories and category == ALL_CATEGORIES:
        return series
    return only(series, _in_any_case(category, series))


def parse_category(breakdown: Breakdown, value: str | None) -> str | None:
    """Validate a value of the argument that selects a category. Raises `InvalidArgumentsError`."""
    try:
        category: str | None = _category_type(breakdown).validate_python(value)
    except ValidationError as error:
        raise invalid_arguments(error, breakdown.argument) from None
    return category


@cache
def _category_type(breakdown: Breakdown) -> TypeAdapter[Any]:
    return TypeAdapter(_filter(breakdown)[0])


def shown(breakdown: Breakdown, series: Series) -> Series:
    """Return the categories that a response contains by default, and the sum of the others."""
    if breakdown.shown_categories:
        return most_downloaded(series, breakdown.shown_categories)
    if len(series) <= MAX_CATEGORIES:
        return series
    has_other = breakdown.is_category(OTHER_CATEGORY)
    rest = OTHER_CATEGORY if has_other else NULL_CATEGORY
    return most_downloaded(series, MAX_CATEGORIES - 1, rest)


@cache
def _filter(breakdown: Breakdown) -> tuple[Any, Any]:
    """Return the type and the field of the argument that selects a category."""
    if isinstance(breakdown.categories, tuple):
        # mypy can't check the members of an enumeration that a call creates.
        members = {re.sub(r"\W", "_", value).upper(): value for value in breakdown.categories}
        kind = cast("Any", Choice)(f"{breakdown.title}Category", members)
        return kind | None, Field(None, description=breakdown.filter_help)
    pattern = breakdown.filter_pattern
    text = Annotated[str, AfterValidator(partial(_category, breakdown))]
    return text | None, Field(
        None,
        description=breakdown.filter_help,
        examples=[breakdown.filter_example],
        json_schema_extra={"pattern": f"^({pattern})$"} if pattern else None,
    )


def _category(breakdown: Breakdown, value: str) -> str:
    """Return the category that a text names in any case. Raises `ValueError`."""
    if lower_ascii(value) in {NULL_CATEGORY, OTHER_CATEGORY, ALL_CATEGORIES}:
        value = value.lower()
    elif breakdown.filter_pattern and value.isascii():
        value = value.upper()
    if breakdown.filter_pattern and not re.fullmatch(breakdown.filter_pattern, value):
        raise ValueError(f"should look like {breakdown.filter_example!r}, or be {NULL_CATEGORY!r}")
    return value


def _in_any_case(category: str, series: Series) -> str:
    """Return the category of the series that equals `category` if case is ignored, or `category`
    itself if there is none. Open categories are known only after the series has been read.
    """
    if category in series:
        return category
    lower = lower_ascii(category)
    return next((one for one in series if lower_ascii(one) == lower), category)


for _breakdown in BREAKDOWNS:
    _declare(_breakdown)
