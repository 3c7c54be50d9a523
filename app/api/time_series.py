"""Downloads of a package by day and category."""

import csv
import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from io import StringIO
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator
from starlette.responses import Response

from app.api.answering import not_found, respond, route_of
from app.api.dependencies import PackageArgument, Repositories, UnambiguousRoute
from app.api.formats import CSV, FORMAT, FORMATS
from app.api.problem_details import documented
from app.api.questions import Argument, Endpoint, Question, Rendered, choice, text
from app.api.schemas import (
    Fill,
    Format,
    Mirrors,
    OperatingSystem,
    OverallDownloads,
    PythonMajorDownloads,
    PythonMinorDownloads,
    SystemDownloads,
)
from app.breakdowns import PYTHON_MAJOR, PYTHON_MINOR, SYSTEM, Breakdown
from app.db.downloads_repository import WITH_MIRRORS, WITHOUT_MIRRORS
from app.downloads import Publication, Series, Window
from app.errors import ArgumentError, InvalidArgumentsError
from app.series import Interval, fill_with_zero, sum_by

router = APIRouter(
    prefix="/api/packages/{package}",
    tags=["packages"],
    route_class=UnambiguousRoute,
    responses=documented(404, 422, 429, 500, 503),
)

_CATEGORY_OF_MIRRORS = {"true": WITH_MIRRORS, "false": WITHOUT_MIRRORS}

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def day_of(value: str) -> date:
    """Raises `ValueError` that says what a day looks like."""
    try:
        if _DAY.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError("should be a day such as 2026-11-20")


def _first_day(value: str, window: Window) -> str | None:
    first = day_of(value)
    if first <= window.first:
        return None
    # All that begin after the last day are one question: nothing is there.
    return str(min(first, window.last + timedelta(days=1)))


def _last_day(value: str, window: Window) -> str | None:
    last = day_of(value)
    if last >= window.last:
        return None
    return str(max(last, window.first - timedelta(days=1)))


def check_range(values: Mapping[str, Sequence[str]]) -> None:
    """Raises `InvalidArgumentsError` when the range ends before it begins."""
    (first,), (last,) = values.get("start_date") or [""], values.get("end_date") or [""]
    if first and last and first > last:
        raise InvalidArgumentsError(
            [ArgumentError("end_date", f"should not be before start_date, which is {first}")]
        )


MIRRORS = choice("mirrors", Mirrors)
RANGE = (Argument("start_date", _first_day), Argument("end_date", _last_day))
SHAPE = (
    choice("fill", Fill),
    choice("interval", Interval, default=Interval.DAY),
)
_SERIES_ARGUMENTS = (*RANGE, *SHAPE, choice(FORMAT, FORMATS, default="json"))

MirrorsArgument = Annotated[
    Mirrors | None, Query(description="With known mirrors, or without them. Both when left out.")
]
StartDateArgument = Annotated[
    date | None,
    BeforeValidator(day_of),
    Query(description="First day, UTC. The first of the days held when left out, or before it."),
]
EndDateArgument = Annotated[
    date | None,
    BeforeValidator(day_of),
    Query(description="Last day, included. The latest published one when left out, or after it."),
]
FillArgument = Annotated[
    Fill | None,
    Query(
        description="`zero` adds the days on which a category had no download, to each that has "
        "some in the range. Days that are not published stay out: they are not known."
    ),
]
IntervalArgument = Annotated[
    Interval | None,
    Query(
        description="Sums of ISO weeks, by their Monday, or of calendar months, by their first "
        "day. Those of which a day is outside the range, or not published, are left out."
    ),
]
FormatArgument = Annotated[
    Format | None,
    Query(alias=FORMAT, description="Instead of the Accept header, where `text/csv` asks for CSV."),
]


_CSV_TOO: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/csv": {
                "schema": {"type": "string"},
                "example": "category,date,downloads\r\nlinux,2026-11-20,1498027\r\n",
            }
        }
    }
}


@router.get(
    "/overall",
    operation_id="get_overall",
    summary="By day, with and without mirrors",
    response_model=OverallDownloads,
    responses=_CSV_TOO,
)
async def overall(
    request: Request,
    package: PackageArgument,
    mirrors: MirrorsArgument = None,
    start_date: StartDateArgument = None,
    end_date: EndDateArgument = None,
    fill: FillArgument = None,
    interval: IntervalArgument = None,
    format_: FormatArgument = None,
) -> Response:
    """Downloads by day, with and without known mirrors."""
    return await respond(request, package)


@router.get(
    "/python_major",
    operation_id="get_python_major",
    summary="By day and major Python version",
    response_model=PythonMajorDownloads,
    responses=_CSV_TOO,
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
    start_date: StartDateArgument = None,
    end_date: EndDateArgument = None,
    fill: FillArgument = None,
    interval: IntervalArgument = None,
    format_: FormatArgument = None,
) -> Response:
    """Downloads by day and major Python version, known mirrors excluded."""
    return await respond(request, package)


@router.get(
    "/python_minor",
    operation_id="get_python_minor",
    summary="By day and minor Python version",
    response_model=PythonMinorDownloads,
    responses=_CSV_TOO,
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
    start_date: StartDateArgument = None,
    end_date: EndDateArgument = None,
    fill: FillArgument = None,
    interval: IntervalArgument = None,
    format_: FormatArgument = None,
) -> Response:
    """Downloads by day and minor Python version, known mirrors excluded."""
    return await respond(request, package)


@router.get(
    "/system",
    operation_id="get_system",
    summary="By day and operating system",
    response_model=SystemDownloads,
    responses=_CSV_TOO,
)
async def system(
    request: Request,
    package: PackageArgument,
    os: Annotated[
        OperatingSystem | None,
        Query(description="One operating system. All when left out."),
    ] = None,
    start_date: StartDateArgument = None,
    end_date: EndDateArgument = None,
    fill: FillArgument = None,
    interval: IntervalArgument = None,
    format_: FormatArgument = None,
) -> Response:
    """Downloads by day and operating system, known mirrors excluded."""
    return await respond(request, package)


async def _answer(
    breakdown: Breakdown | None,
    argument: str,
    repositories: Repositories,
    question: Question,
    publication: Publication,
) -> Rendered:
    """Of a breakdown; None is `overall`."""
    asked = range_of(question, publication.window)
    package = question.package, publication.window, asked
    series = (
        await repositories.downloads.breakdown(*package, breakdown)
        if breakdown
        else await repositories.downloads.overall(*package)
    )
    if series is None:
        raise not_found(question.package)
    if breakdown:
        series = _asked(series, question, publication, question.get(argument))
    else:
        series = overall_asked(series, question, publication)
    payload_type = breakdown.payload_type if breakdown else "overall_downloads"
    if question.get(FORMAT) == "csv":
        return Rendered(_csv(series), CSV, is_kept=bool(series))
    body = orjson.dumps(payload(payload_type, question.package, series))
    return Rendered(body, is_kept=bool(series))


def range_of(question: Question, window: Window) -> Window:
    """The days that are asked for, of those served."""
    first, last = question.get("start_date"), question.get("end_date")
    return Window(
        date.fromisoformat(first) if first else window.first,
        date.fromisoformat(last) if last else window.last,
    )


def overall_asked(series: Series, question: Question, publication: Publication) -> Series:
    mirrors = question.get("mirrors")
    category = _CATEGORY_OF_MIRRORS[mirrors] if mirrors else None
    return _asked(series, question, publication, category)


def _asked(
    series: Series, question: Question, publication: Publication, category: str | None
) -> Series:
    """Of one category or all, filled and summed as the question says."""
    if category is not None:
        series = {category: series[category]} if category in series else {}
    fill, interval = question.get("fill"), question.get("interval")
    if fill or interval:
        first, last = range_of(question, publication.window)
        days = [day for day in publication.days if first <= day <= last]
        if fill:
            series = fill_with_zero(series, days)
        if interval:
            series = sum_by(Interval(interval), series, days)
    return series


def payload(payload_type: str, package: str, series: Series) -> dict[str, object]:
    data = [
        {"category": category, "date": day, "downloads": downloads}
        for category in sorted(series)
        for day, downloads in series[category]
    ]
    return {"data": data, "package": package, "type": payload_type}


def _csv(series: Series) -> bytes:
    """The same items, as RFC 4180 has them."""
    table = StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("category", "date", "downloads"))
    for category in sorted(series):
        writer.writerows((category, day, downloads) for day, downloads in series[category])
    return table.getvalue().encode()


def _endpoint(name: str, breakdown: Breakdown | None, argument: Argument) -> Endpoint:
    return Endpoint(
        f"/api/packages/{{package}}/{name}",
        route_of(router, name),
        partial(_answer, breakdown, argument.name),
        (argument, *_SERIES_ARGUMENTS),
        check_range,
    )


ENDPOINTS = (
    _endpoint("overall", None, MIRRORS),
    _endpoint("python_major", PYTHON_MAJOR, text("version")),
    _endpoint("python_minor", PYTHON_MINOR, text("version")),
    _endpoint("system", SYSTEM, choice("os", OperatingSystem)),
)
