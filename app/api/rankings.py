"""Which packages have most downloads, and which grow most."""

from datetime import timedelta
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.api.answering import respond, route_of
from app.api.dependencies import Repositories, UnambiguousRoute
from app.api.problem_details import documented
from app.api.questions import Endpoint, Question, Rendered, choice, count, is_usual
from app.api.schemas import PackageField, Period
from app.downloads import Publication
from app.rankings import RANKED_PACKAGES, TREND_DAYS, TREND_FLOOR_DOWNLOADS

DEFAULT_LIMIT = 100

SHARE_DECIMALS = 6
"""The least of a thousand packages has some 0.0002 of all downloads."""

GROWTH_DECIMALS = 4

router = APIRouter(
    prefix="/api",
    tags=["rankings"],
    route_class=UnambiguousRoute,
    responses=documented(422, 429, 500, 503),
)

LimitArgument = Annotated[
    int | None,
    Query(
        description=f"Packages to answer with, at most. {DEFAULT_LIMIT} when left out.",
        ge=1,
        le=RANKED_PACKAGES,
    ),
]


class TopPackage(BaseModel):
    """A package and its downloads in the period, known mirrors excluded."""

    downloads: int = Field(description="Number of downloads.", ge=1)
    package: PackageField
    rank: int = Field(description="1 has most downloads. Equal ones are ranked by name.", ge=1)
    share: float = Field(
        description=f"Of the downloads of all packages, rounded to {SHARE_DECIMALS} decimals.",
        ge=0,
        le=1,
    )


class TopPackages(BaseModel):
    """The packages with most downloads."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": [
                        {
                            "downloads": 1802331040,
                            "package": "boto3",
                            "rank": 1,
                            "share": 0.018532,
                        },
                        {
                            "downloads": 1310208117,
                            "package": "urllib3",
                            "rank": 2,
                            "share": 0.013472,
                        },
                    ],
                    "type": "top_packages",
                }
            ]
        }
    )

    data: list[TopPackage] = Field(description="Ordered by rank.")
    type: Literal["top_packages"]


class TrendingPackage(BaseModel):
    """A package and its downloads in two weeks, known mirrors excluded."""

    growth: float = Field(
        description="From the previous week to the last, as a ratio to the previous one: 0.5 is "
        f"half as many again. Rounded to {GROWTH_DECIMALS} decimals.",
        ge=0,
    )
    last_week: int = Field(description="Downloads in the latest 7 days.", ge=1)
    package: PackageField
    previous_week: int = Field(
        description="Downloads in the 7 days before.", ge=TREND_FLOOR_DOWNLOADS
    )
    rank: int = Field(description="1 grew most. Equal growth is ranked by name.", ge=1)


class TrendingPackages(BaseModel):
    """The packages that grew most from week to week."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": [
                        {
                            "growth": 1.5312,
                            "last_week": 253120,
                            "package": "requests",
                            "previous_week": 100000,
                            "rank": 1,
                        }
                    ],
                    "type": "trending_packages",
                }
            ]
        }
    )

    data: list[TrendingPackage] = Field(
        description="Ordered by rank. Empty if the two weeks can't be compared: while one of the "
        "14 days is not published, or an event of the kind `definition` falls on one of them."
    )
    type: Literal["trending_packages"]


@router.get(
    "/top",
    operation_id="get_top",
    summary="Packages with most downloads",
    response_model=TopPackages,
)
async def top(
    request: Request,
    period: Annotated[
        Period | None,
        Query(description="That ends with the latest published day. `month` when left out."),
    ] = None,
    limit: LimitArgument = None,
) -> Response:
    """The packages with most downloads in the latest day, 7 days or 30 days, and their share of
    all downloads.
    """
    return await respond(request)


@router.get(
    "/trending",
    operation_id="get_trending",
    summary="Packages that grow most",
    response_model=TrendingPackages,
    description="The packages whose downloads grew most from the 7 days before to the latest 7 "
    f"days. They have at least {TREND_FLOOR_DOWNLOADS:,} in each: below, a single build job makes "
    "a trend. There are none while PyPI's definition of a download changed within the two weeks "
    "(`/api/events`), unless all of these days are counted by the same rule.",
)
async def trending(request: Request, limit: LimitArgument = None) -> Response:
    return await respond(request)


async def _top(repositories: Repositories, question: Question, _: Publication) -> Rendered:
    limit = _limit(question)
    packages = await repositories.rankings.top(question.get("period") or Period.MONTH, limit)
    data = [
        {
            "downloads": one.downloads,
            "package": one.package,
            "rank": one.rank,
            "share": round(one.downloads / one.all_downloads, SHARE_DECIMALS),
        }
        for one in packages
    ]
    return Rendered(orjson.dumps({"data": data, "type": "top_packages"}), is_kept=is_usual(limit))


async def _trending(
    repositories: Repositories, question: Question, publication: Publication
) -> Rendered:
    limit = _limit(question)
    trending = await repositories.rankings.trending(limit)
    if not are_comparable(repositories, publication, TREND_DAYS):
        trending = []
    data = [
        {
            "growth": ratio_of_change(one.last_week, one.previous_week),
            "last_week": one.last_week,
            "package": one.package,
            "previous_week": one.previous_week,
            "rank": one.rank,
        }
        for one in trending
    ]
    body = orjson.dumps({"data": data, "type": "trending_packages"})
    return Rendered(body, is_kept=is_usual(limit))


def _limit(question: Question) -> int:
    return int(question.get("limit") or DEFAULT_LIMIT)


def are_comparable(repositories: Repositories, publication: Publication, days: int) -> bool:
    """True if the latest published days, so many, were counted by the same definition."""
    first = publication.latest_day - timedelta(days=days - 1)
    rules = publication.counted_files
    return repositories.events.are_comparable(
        {day: rule for day, rule in rules.items() if day >= first}
    )


def ratio_of_change(now: int, before: int) -> float:
    return round((now - before) / before, GROWTH_DECIMALS)


_LIMIT = count("limit", RANKED_PACKAGES, DEFAULT_LIMIT)

ENDPOINTS = (
    Endpoint(
        "/api/top",
        route_of(router, "top"),
        _top,
        (choice("period", Period, default=Period.MONTH), _LIMIT),
    ),
    Endpoint("/api/trending", route_of(router, "trending"), _trending, (_LIMIT,)),
)
