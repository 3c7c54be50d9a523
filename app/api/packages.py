"""The documented endpoints: downloads of a package."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api.dependencies import PackageArgument, UnambiguousRoute, normalised, repository_of
from app.api.http_cache import Endpoint
from app.api.problem_details import documented
from app.api.schemas import (
    Mirrors,
    OperatingSystem,
    OverallDownloads,
    Period,
    PythonMajorDownloads,
    PythonMinorDownloads,
    RecentDownloads,
    SystemDownloads,
)
from app.breakdowns import PYTHON_MAJOR, PYTHON_MINOR, SYSTEM, Breakdown
from app.db.downloads_repository import WITH_MIRRORS, WITHOUT_MIRRORS, DownloadsRepository
from app.downloads import Series
from app.errors import NothingPublishedError, PackageNotFoundError, StatsError

router = APIRouter(
    prefix="/api/packages/{package}",
    tags=["packages"],
    route_class=UnambiguousRoute,
    responses=documented(404, 422, 429, 500, 503),
)

RENDERING = "1"
"""Another one whenever the same data is rendered to other bytes: every answer's tag tells it."""

_CATEGORY_OF_MIRRORS = {"true": WITH_MIRRORS, "false": WITHOUT_MIRRORS}


@router.get(
    "/recent",
    operation_id="get_recent",
    summary="Latest day, week and month",
    response_model=RecentDownloads,
)
async def recent(
    request: Request,
    package: PackageArgument,
    period: Annotated[Period | None, Query(description="All three when left out.")] = None,
) -> Response:
    """Downloads of the latest published day, and of the 7 and 30 days that end with it."""
    return await _respond(request, "recent", package, period)


@router.get(
    "/overall",
    operation_id="get_overall",
    summary="By day, with and without mirrors",
    response_model=OverallDownloads,
)
async def overall(
    request: Request,
    package: PackageArgument,
    mirrors: Annotated[
        Mirrors | None,
        Query(description="With known mirrors, or without them. Both when left out."),
    ] = None,
) -> Response:
    """Downloads by day, with and without known mirrors."""
    return await _respond(request, "overall", package, mirrors)


@router.get(
    "/python_major",
    operation_id="get_python_major",
    summary="By day and major Python version",
    response_model=PythonMajorDownloads,
)
async def python_major(
    request: Request,
    package: PackageArgument,
    version: Annotated[
        str | None,
        Query(
            description="One major version, or `null`. All when left out.",
            examples=["3"],
            min_length=1,
        ),
    ] = None,
) -> Response:
    """Downloads by day and major Python version, known mirrors excluded."""
    return await _respond(request, "python_major", package, version)


@router.get(
    "/python_minor",
    operation_id="get_python_minor",
    summary="By day and minor Python version",
    response_model=PythonMinorDownloads,
)
async def python_minor(
    request: Request,
    package: PackageArgument,
    version: Annotated[
        str | None,
        Query(
            description="One minor version, or `null`. All when left out.",
            examples=["3.12"],
            min_length=1,
        ),
    ] = None,
) -> Response:
    """Downloads by day and minor Python version, known mirrors excluded."""
    return await _respond(request, "python_minor", package, version)


@router.get(
    "/system",
    operation_id="get_system",
    summary="By day and operating system",
    response_model=SystemDownloads,
)
async def system(
    request: Request,
    package: PackageArgument,
    os: Annotated[
        OperatingSystem | None,
        Query(description="One operating system. All when left out."),
    ] = None,
) -> Response:
    """Downloads by day and operating system, known mirrors excluded."""
    return await _respond(request, "system", package, os)


async def _respond(request: Request, endpoint: str, package: str, argument: str | None) -> Response:
    """As `HTTPCacheMiddleware` does for most requests, before they come here."""
    answer = _ANSWERS[endpoint]
    body = await answer(repository_of(request), normalised(package), argument)
    return Response(body, media_type="application/json")


async def _recent(repository: DownloadsRepository, package: str, period: str | None) -> bytes:
    counts = await repository.recent(package)
    if counts is None:
        raise await _not_found(repository, package)
    data = {
        "last_day": counts.last_day,
        "last_month": counts.last_month,
        "last_week": counts.last_week,
    }
    if period:
        key = f"last_{period}"
        data = {key: data[key]}
    return orjson.dumps({"data": data, "package": package, "type": "recent_downloads"})


async def _overall(repository: DownloadsRepository, package: str, mirrors: str | None) -> bytes:
    series = await repository.overall(package)
    if series is None:
        raise await _not_found(repository, package)
    category = _CATEGORY_OF_MIRRORS[mirrors] if mirrors else None
    return _render("overall_downloads", package, series, category)


async def _breakdown(
    breakdown: Breakdown, repository: DownloadsRepository, package: str, category: str | None
) -> bytes:
    series = await repository.breakdown(package, breakdown)
    if series is None:
        raise await _not_found(repository, package)
    return _render(breakdown.payload_type, package, series, category)


async def _not_found(repository: DownloadsRepository, package: str) -> StatsError:
    """While nothing is published, nothing is known of any package."""
    if not await repository.has_published():
        return NothingPublishedError()
    return PackageNotFoundError(f"There is no package {package!r} with downloads in the days held.")


def _render(payload_type: str, package: str, series: Series, category: str | None) -> bytes:
    categories = sorted(series) if category is None else [category]
    data = [
        {"category": name, "date": day, "downloads": downloads}
        for name in categories
        for day, downloads in series.get(name, ())
    ]
    return orjson.dumps({"data": data, "package": package, "type": payload_type})


_ANSWERS: dict[str, Callable[[DownloadsRepository, str, str | None], Awaitable[bytes]]] = {
    "recent": _recent,
    "overall": _overall,
    "python_major": partial(_breakdown, PYTHON_MAJOR),
    "python_minor": partial(_breakdown, PYTHON_MINOR),
    "system": partial(_breakdown, SYSTEM),
}

_VALUES: dict[str, frozenset[str]] = {
    "recent": frozenset(Period),
    "overall": frozenset(Mirrors),
    "system": frozenset(OperatingSystem),
}
"""Of arguments that don't take any text."""


def endpoints(repository: Callable[[], DownloadsRepository]) -> dict[str, Endpoint]:
    """What answers without FastAPI, by the last part of its path."""

    def asked(name: str) -> Callable[[str, str | None], Awaitable[bytes]]:
        answer = _ANSWERS[name]
        return lambda package, argument: answer(repository(), package, argument)

    return {
        route.name: Endpoint(route, argument, _VALUES.get(route.name), asked(route.name))
        for route in router.routes
        if isinstance(route, UnambiguousRoute)
        for argument in route.argument_names
    }
