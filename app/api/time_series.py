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
from app.api.offloading import LARGE_ITEMS, offloaded_if
from app.api.problem_details import documented
from app.api.questions import Argument, Endpoint, Question, Rendered, choice, text
from app.api.schemas import (
    CiDownloads,
    ContinuousIntegration,
    CountryDownloads,
    Fill,
    ImplementationDownloads,
    InstallerDownloads,
    Mirrors,
    OperatingSystem,
    OverallDownloads,
    PythonMajorDownloads,
    PythonMinorDownloads,
    SeriesFormat,
    SystemDownloads,
    VersionDownloads,
)
from app.breakdowns import (
    CI,
    COUNTRY,
    IMPLEMENTATION,
    INSTALLER,
    NULL_CATEGORY,
    PYTHON_MAJOR,
    PYTHON_MINOR,
    SYSTEM,
    VERSION,
    Breakdown,
    Implementation,
    Installer,
)
from app.db.downloads_repository import WITH_MIRRORS, WITHOUT_MIRRORS, Found
from app.downloads import Publication, Series, Window
from app.errors import ArgumentError, BreakdownNotFoundError, InvalidArgumentsError
from app.package_name import ALL_PACKAGES
from app.series import Interval, fill_with_zero, most_downloaded, sum_by

router = APIRouter(
    prefix="/api/packages/{package}",
    tags=["packages"],
    route_class=UnambiguousRoute,
    responses=documented(404, 422, 429, 500, 503),
)

_CATEGORY_OF_MIRRORS = {"true": WITH_MIRRORS, "false": WITHOUT_MIRRORS}

ALL_CATEGORIES = "all"
"""Asks for all of a breakdown that shows the most downloaded ones otherwise."""

_COUNTRY = "^([A-Z]{2}|null)$"

MAX_FILLED_ITEMS = 50_000
"""All countries on 180 days are less. Releases that were made up could be any number."""

TOO_MANY_ITEMS = (
    f"would make {{:,}} items, of {MAX_FILLED_ITEMS:,} at most: ask for one category or fewer days"
)

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def day_of(value: str) -> date:
    """Raises `ValueError` that says what a day looks like."""
    try:
        if _DAY.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError("should be a day such as 2026-11-20")


def country_of(value: str) -> str:
    """Raises `ValueError` that says what a country looks like."""
    if value != NULL_CATEGORY and not re.fullmatch("[A-Z]{2}", value):
        raise ValueError("should be two capital letters such as 'US', or 'null'")
    return value


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
RANGE = (
    Argument("start_date", _first_day, is_open=True),
    Argument("end_date", _last_day, is_open=True),
)
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
    SeriesFormat | None,
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


@router.get(
    "/installer",
    operation_id="get_installer",
    summary="By day and installer",
    response_model=InstallerDownloads,
    responses=_CSV_TOO,
)
async def installer(
    request: Request,
    package: PackageArgument,
    installer: Annotated[
        Installer | None, Query(description="One installer. All when left out.")
    ] = None,
    start_date: StartDateArgument = None,
    end_date: EndDateArgument = None,
    fill: FillArgument = None,
    interval: IntervalArgument = None,
    format_: FormatArgument = None,
) -> Response:
    """Downloads by day and by what made them, known mirrors excluded.

    404 also where this instance does not ingest it.
    """
    return await respond(request, package)


@router.get(
    "/ci",
    operation_id="get_ci",
    summary="By day and continuous integration",
    response_model=CiDownloads,
    responses=_CSV_TOO,
)
async def ci(
    request: Request,
    package: PackageArgument,
    ci: Annotated[
        ContinuousIntegration | None,
        Query(description="Whether made there; `null` where that is unknown. All when left out."),
    ] = None,
    start_date: StartDateArgument = None,
    end_date: EndDateArgument = None,
    fill: FillArgument = None,
    interval: IntervalArgument = None,
    format_: FormatArgument = None,
) -> Response:
    """Downloads by day and whether continuous integration made them, known mirrors excluded.

    404 also where this instance does not ingest it.
    """
    return await respond(request, package)


@router.get(
    "/country",
    operation_id="get_country",
    summary="By day and country",
    response_model=CountryDownloads,
    responses=_CSV_TOO,
)
async def country(
    request: Request,
    package: PackageArgument,
    country: Annotated[
        str | None,
        BeforeValidator(country_of),
        Query(
            description="One country, by its two letters of ISO 3166, or `null`. All when left "
            "out.",
            examples=["US"],
            pattern=_COUNTRY,
        ),
    ] = None,
    start_date: StartDateArgument = None,
    end_date: EndDateArgument = None,
    fill: FillArgument = None,
    interval: IntervalArgument = None,
    format_: FormatArgument = None,
) -> Response:
    """Downloads by day and country, known mirrors excluded.

    404 also where this instance does not ingest it.
    """
    return await respond(request, package)


@router.get(
    "/version",
    operation_id="get_version",
    summary="By day and release of the package",
    response_model=VersionDownloads,
    responses=_CSV_TOO,
)
async def version(
    request: Request,
    package: PackageArgument,
    version: Annotated[
        str | None,
        Query(
            description="One release; `all` that are kept, which are the 100 with most downloads "
            "of each day, or `other` for the rest. When left out, the 20 with most downloads in "
            "the range, and all else as `other`.",
            examples=["2.31.0"],
            min_length=1,
        ),
    ] = None,
    start_date: StartDateArgument = None,
    end_date: EndDateArgument = None,
    fill: FillArgument = None,
    interval: IntervalArgument = None,
    format_: FormatArgument = None,
) -> Response:
    """Downloads by day and release of the package, known mirrors excluded.

    404 also where this instance does not ingest it, and for `__all__`.
    """
    return await respond(request, package)


@router.get(
    "/implementation",
    operation_id="get_implementation",
    summary="By day and implementation of Python",
    response_model=ImplementationDownloads,
    responses=_CSV_TOO,
)
async def implementation(
    request: Request,
    package: PackageArgument,
    implementation: Annotated[
        Implementation | None, Query(description="One implementation. All when left out.")
    ] = None,
    start_date: StartDateArgument = None,
    end_date: EndDateArgument = None,
    fill: FillArgument = None,
    interval: IntervalArgument = None,
    format_: FormatArgument = None,
) -> Response:
    """Downloads by day and implementation of Python, known mirrors excluded.

    404 also where this instance does not ingest it.
    """
    return await respond(request, package)


async def _answer(
    breakdown: Breakdown | None,
    argument: str,
    repositories: Repositories,
    question: Question,
    publication: Publication,
) -> Rendered:
    """Of a breakdown; None is `overall`."""
    if breakdown and breakdown.is_optional:
        _check_ingested(breakdown, question.package, publication)
    asked = range_of(question, publication.window)
    package, served, with_known = question.package, publication.window, needs_known(question)
    downloads = repositories.downloads
    if breakdown:
        found = await downloads.breakdown(package, served, asked, breakdown, with_known=with_known)
    else:
        found = (await downloads.overall([package], served, asked, with_known=with_known)).get(
            package
        )
    if found is None:
        raise not_found(package)
    items = sum(map(len, found.series.values()))
    if question.get("fill"):
        items = len(found.series) * len(found.known)
    return await offloaded_if(items >= LARGE_ITEMS, _rendered, breakdown, argument, question, found)


def _rendered(
    breakdown: Breakdown | None, argument: str, question: Question, found: Found
) -> Rendered:
    if breakdown:
        category = question.get(argument)
        if breakdown.shown_categories:
            if category is None:
                series = most_downloaded(found.series, breakdown.shown_categories)
                found = found._replace(series=series)
            elif category == ALL_CATEGORIES:
                category = None
        series = _asked(found, question, category)
    else:
        series = overall_asked(found, question)
    payload_type = breakdown.payload_type if breakdown else "overall_downloads"
    if question.get(FORMAT) == "csv":
        return Rendered(_csv(series), CSV, is_kept=bool(series))
    body = orjson.dumps(payload(payload_type, question.package, series))
    return Rendered(body, is_kept=bool(series))


def _check_ingested(breakdown: Breakdown, package: str, publication: Publication) -> None:
    """Raises `BreakdownNotFoundError` where no day could say anything."""
    if breakdown.is_of_one_package and package == ALL_PACKAGES:
        raise BreakdownNotFoundError(
            f"Of {ALL_PACKAGES} there is no {breakdown.name}: it is a package's own."
        )
    if not publication.days_with(breakdown):
        raise BreakdownNotFoundError(
            f"No day that is held tells of the {breakdown.name}: this instance does not ingest it. "
            f"Who runs it may add {breakdown.name} to its setting INGEST_BREAKDOWNS."
        )


def range_of(question: Question, window: Window) -> Window:
    """The days that are asked for, of those served."""
    first, last = question.get("start_date"), question.get("end_date")
    return Window(
        date.fromisoformat(first) if first else window.first,
        date.fromisoformat(last) if last else window.last,
    )


def needs_known(question: Question) -> bool:
    """Whether the answer depends on which days are published, and not on their downloads alone."""
    return bool(question.get("fill") or question.get("interval"))


def overall_asked(found: Found, question: Question) -> Series:
    mirrors = question.get("mirrors")
    return _asked(found, question, _CATEGORY_OF_MIRRORS[mirrors] if mirrors else None)


def _asked(found: Found, question: Question, category: str | None) -> Series:
    """Of one category or all, filled and summed as the question says. Raises
    `InvalidArgumentsError` when that would be too much.
    """
    series, known = found
    if category is not None:
        series = {category: series[category]} if category in series else {}
    interval = question.get("interval")
    if question.get("fill"):
        items = len(series) * len(known)
        if items > MAX_FILLED_ITEMS:
            raise InvalidArgumentsError([ArgumentError("fill", TOO_MANY_ITEMS.format(items))])
        series = fill_with_zero(series, known)
    return sum_by(Interval(interval), series, known) if interval else series


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
    _endpoint("python_major", PYTHON_MAJOR, text(PYTHON_MAJOR.argument)),
    _endpoint("python_minor", PYTHON_MINOR, text(PYTHON_MINOR.argument)),
    _endpoint("system", SYSTEM, choice(SYSTEM.argument, OperatingSystem)),
    _endpoint("installer", INSTALLER, choice(INSTALLER.argument, Installer)),
    _endpoint("ci", CI, choice(CI.argument, ContinuousIntegration)),
    _endpoint("country", COUNTRY, Argument(COUNTRY.argument, lambda value, _: country_of(value))),
    _endpoint("version", VERSION, text(VERSION.argument)),
    _endpoint("implementation", IMPLEMENTATION, choice(IMPLEMENTATION.argument, Implementation)),
)
