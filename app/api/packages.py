"""The documented endpoints: downloads of a package."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api.dependencies import PackageArgument, UnambiguousRoute, normalised, repository_of
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

_CATEGORY_OF_MIRRORS = {Mirrors.TRUE: WITH_MIRRORS, Mirrors.FALSE: WITHOUT_MIRRORS}


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
    name = normalised(package)
    repository = repository_of(request)
    counts = await repository.recent(name)
    if counts is None:
        raise await _not_found(name, repository)
    data = {
        "last_day": counts.last_day,
        "last_month": counts.last_month,
        "last_week": counts.last_week,
    }
    if period:
        key = f"last_{period}"
        data = {key: data[key]}
    return _json({"data": data, "package": name, "type": "recent_downloads"})


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
    name = normalised(package)
    repository = repository_of(request)
    series = await repository.overall(name)
    if series is None:
        raise await _not_found(name, repository)
    category = _CATEGORY_OF_MIRRORS[mirrors] if mirrors else None
    return _series("overall_downloads", name, series, category)


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
    return await _breakdown(PYTHON_MAJOR, request, package, version)


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
    return await _breakdown(PYTHON_MINOR, request, package, version)


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
    return await _breakdown(SYSTEM, request, package, os)


async def _breakdown(
    breakdown: Breakdown, request: Request, package: str, category: str | None
) -> Response:
    name = normalised(package)
    repository = repository_of(request)
    series = await repository.breakdown(name, breakdown)
    if series is None:
        raise await _not_found(name, repository)
    return _series(breakdown.payload_type, name, series, category)


async def _not_found(package: str, repository: DownloadsRepository) -> StatsError:
    """While nothing is published, nothing is known of any package."""
    if not await repository.has_published():
        return NothingPublishedError()
    return PackageNotFoundError(f"There is no package {package!r} with downloads in the days held.")


def _series(payload_type: str, package: str, series: Series, category: str | None) -> Response:
    categories = sorted(series) if category is None else [category]
    data = [
        {"category": name, "date": day, "downloads": downloads}
        for name in categories
        for day, downloads in series.get(name, ())
    ]
    return _json({"data": data, "package": package, "type": payload_type})


def _json(payload: dict[str, object]) -> Response:
    return Response(orjson.dumps(payload), media_type="application/json")
