"""Downloads of many packages in one answer."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api import recent, time_series
from app.api.answering import respond, route_of
from app.api.dependencies import Repositories, UnambiguousRoute
from app.api.problem_details import documented
from app.api.questions import Argument, Endpoint, Question, Rendered
from app.api.schemas import OverallDownloadsOfMany, RecentDownloadsOfMany
from app.api.time_series import (
    EndDateArgument,
    FillArgument,
    IntervalArgument,
    MirrorsArgument,
    StartDateArgument,
)
from app.downloads import Publication, Window
from app.errors import ArgumentError, InvalidArgumentsError
from app.package_name import ALL_PACKAGES, is_valid, normalise

MAX_PACKAGES = 100

router = APIRouter(
    prefix="/api/packages",
    tags=["packages"],
    route_class=UnambiguousRoute,
    responses=documented(414, 422, 429, 500, 503),
)

PackagesArgument = Annotated[
    list[str],
    Query(
        description="Names in any spelling, one in each `package=`.",
        examples=[["requests", "flask"]],
        min_length=1,
        max_length=MAX_PACKAGES,
    ),
]


def _name(value: str, _: Window) -> str:
    return normalise(value)


_PACKAGES = Argument("package", _name, is_repeated=True, is_open=True)


@router.get(
    "/recent",
    operation_id="get_recent_of_many",
    summary="Latest day, week and month of many packages",
    response_model=RecentDownloadsOfMany,
)
async def recent_of_many(
    request: Request, package: PackagesArgument, period: recent.PeriodArgument = None
) -> Response:
    """What `recent` answers for each, by name. Those that are not known are listed as missing."""
    return await respond(request)


@router.get(
    "/overall",
    operation_id="get_overall_of_many",
    summary="By day, with and without mirrors, of many packages",
    response_model=OverallDownloadsOfMany,
)
async def overall_of_many(
    request: Request,
    package: PackagesArgument,
    mirrors: MirrorsArgument = None,
    start_date: StartDateArgument = None,
    end_date: EndDateArgument = None,
    fill: FillArgument = None,
    interval: IntervalArgument = None,
) -> Response:
    """What `overall` answers for each, by name. Those that are not known are listed as missing."""
    return await respond(request)


async def _recent(repositories: Repositories, question: Question, _: Publication) -> Rendered:
    names = question.all("package")
    counts = await repositories.downloads.recent_of_many(_possible(names))
    period = question.get("period")
    payloads = {name: recent.payload(name, of_one, period) for name, of_one in counts.items()}
    return _rendered("recent_downloads_of_many", names, payloads)


async def _overall(
    repositories: Repositories, question: Question, publication: Publication
) -> Rendered:
    names = question.all("package")
    found = await repositories.downloads.overall(
        _possible(names),
        publication.window,
        time_series.range_of(question, publication.window),
        with_known=time_series.needs_known(question),
    )
    payloads = {}
    for name, of_one in found.items():
        series = time_series.overall_asked(of_one, question)
        payload = time_series.payload("overall_downloads", name, series)
        payloads[name] = orjson.Fragment(orjson.dumps(payload))
        # A hundred take some 50 ms, during which other requests would wait.
        await asyncio.sleep(0)
    return _rendered("overall_downloads_of_many", names, payloads)


def _possible(names: Sequence[str]) -> list[str]:
    return [name for name in names if is_valid(name) or name == ALL_PACKAGES]


def _rendered(payload_type: str, names: Sequence[str], payloads: Mapping[str, object]) -> Rendered:
    data = [payloads[name] for name in names if name in payloads]
    missing = [name for name in names if name not in payloads]
    body = orjson.dumps({"data": data, "missing": missing, "type": payload_type})
    # Any text may be asked for as a name.
    return Rendered(body, is_kept=not missing)


def _check_packages(values: Mapping[str, Sequence[str]]) -> None:
    names = {normalise(name) for name in values.get("package", ())}
    if not 1 <= len(names) <= MAX_PACKAGES:
        raise InvalidArgumentsError(
            [ArgumentError("package", f"should be given 1 to {MAX_PACKAGES} times")]
        )


def _check_packages_and_range(values: Mapping[str, Sequence[str]]) -> None:
    _check_packages(values)
    time_series.check_range(values)


ENDPOINTS = (
    Endpoint(
        "/api/packages/recent",
        route_of(router, "recent_of_many"),
        _recent,
        (_PACKAGES, *recent.ARGUMENTS),
        _check_packages,
    ),
    Endpoint(
        "/api/packages/overall",
        route_of(router, "overall_of_many"),
        _overall,
        (_PACKAGES, time_series.MIRRORS, *time_series.RANGE, *time_series.SHAPE),
        _check_packages_and_range,
    ),
)
