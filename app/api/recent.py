"""Downloads of the latest day, week and month."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api.answering import not_found, respond, route_of
from app.api.dependencies import PackageArgument, Repositories, UnambiguousRoute
from app.api.problem_details import documented
from app.api.questions import Endpoint, Question, Rendered, choice
from app.api.schemas import Period, RecentDownloads
from app.downloads import Publication
from app.downloads import RecentDownloads as RecentCounts

router = APIRouter(
    prefix="/api/packages/{package}",
    tags=["packages"],
    route_class=UnambiguousRoute,
    responses=documented(404, 422, 429, 500, 503),
)

PeriodArgument = Annotated[Period | None, Query(description="All three when left out.")]

ARGUMENTS = (choice("period", Period),)


@router.get(
    "/recent",
    operation_id="get_recent",
    summary="Latest day, week and month",
    response_model=RecentDownloads,
)
async def recent(
    request: Request, package: PackageArgument, period: PeriodArgument = None
) -> Response:
    """Downloads of the latest published day, and of the 7 and 30 days that end with it."""
    return await respond(request, package)


async def _answer(repositories: Repositories, question: Question, _: Publication) -> Rendered:
    counts = await repositories.downloads.recent(question.package)
    if counts is None:
        raise not_found(question.package)
    return Rendered(orjson.dumps(payload(question.package, counts, question.get("period"))))


def payload(package: str, counts: RecentCounts, period: str | None) -> dict[str, object]:
    data = {
        "last_day": counts.last_day,
        "last_month": counts.last_month,
        "last_week": counts.last_week,
    }
    if period:
        key = f"last_{period}"
        data = {key: data[key]}
    return {"data": data, "package": package, "type": "recent_downloads"}


ENDPOINTS = (
    Endpoint("/api/packages/{package}/recent", route_of(router, "recent"), _answer, ARGUMENTS),
)
