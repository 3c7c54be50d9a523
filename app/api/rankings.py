"""The packages with the most downloads, and those whose downloads grow most."""

import datetime as dt
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated, Literal

from fastapi import Query
from pydantic import AfterValidator, BaseModel, Field, ValidationInfo, field_validator

from app.api.endpoints import EndpointRouter
from app.api.payloads import PackageField, Payload, RenderedBody, csv_docs, example_config
from app.api.queries import TableQuery, WholeNumber
from app.api.statistics import Statistics
from app.domain.choice import Choice
from app.domain.downloads import Publication, date_ranges
from app.domain.history import days_in
from app.domain.months import MONTH_PATTERN, StoredMonth, parse_month
from app.domain.rankings import PERIOD_DAYS, RANKED_PACKAGES, TREND_DAYS, TREND_FLOOR_DOWNLOADS
from app.errors import NotFoundError

SHARE_DECIMALS = 6
"""Decimals of a share. The thousandth package has about 0.0002 of all downloads."""

GROWTH_DECIMALS = 4

router = EndpointRouter("/api", "rankings")

FollowedPackages = Annotated[
    int | None,
    Field(
        description="Number of packages that this instance follows. The ranking contains only "
        "these. Null if this instance has all packages.",
        ge=0,
    ),
]


class LimitQuery(TableQuery):
    limit: WholeNumber = Field(
        100,
        description="Maximum number of packages in the response.",
        ge=1,
        le=RANKED_PACKAGES,
    )


class RankedPeriod(Choice):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    ALL = "all"
    """All stored months."""


class TopQuery(LimitQuery):
    month: Annotated[str, AfterValidator(lambda text: str(parse_month(text)))] | None = Field(
        None,
        description="A stored calendar month such as `2026-05`, in place of `period`.",
        json_schema_extra={"pattern": MONTH_PATTERN},
    )
    period: RankedPeriod = Field(
        RankedPeriod.MONTH,
        description="Period that ends with the latest published day, or `all` for the sum of all "
        "stored months.",
    )

    @field_validator("period")
    @classmethod
    def _check_alone(cls, period: RankedPeriod, info: ValidationInfo) -> RankedPeriod:
        # Pydantic does not validate the default.
        if info.data.get("month"):
            raise ValueError("should not be combined with month")
        return period


def is_round(limit: int) -> bool:
    """Return True for round limits, which many clients are likely to request.

    Responses with other limits are not cached, because one client could request each of a thousand.
    """
    return limit % 100 == 0 or (limit < 100 and limit % 10 == 0)


class TopPackage(BaseModel):
    """A package and its downloads in the period, known mirrors excluded."""

    downloads: int = Field(description="Number of downloads.", ge=1)
    package: PackageField
    rank: int = Field(
        description="Rank by downloads, 1 for the most. Equal counts are ranked by name.", ge=1
    )
    share: float | None = Field(
        description=f"Share of all packages' downloads, rounded to {SHARE_DECIMALS} decimals. Null "
        "if this instance follows only some packages.",
        ge=0,
        le=1,
    )


class TopPackages(Payload):
    """The packages with the most downloads."""

    model_config = example_config(
        {
            "data": [
                {"downloads": 1802331040, "package": "boto3", "rank": 1, "share": 0.018532},
                {"downloads": 1310208117, "package": "urllib3", "rank": 2, "share": 0.013472},
            ],
            "days": 30,
            "since": "2026-10-22",
            "through": "2026-11-20",
            "type": "top_packages",
        }
    )

    data: list[TopPackage] = Field(description="Ordered by rank.")
    days: int = Field(
        description="Number of days that are counted. It is less than the days from `since` "
        "through `through` if some are missing.",
        ge=0,
    )
    followed_packages: FollowedPackages = None
    since: dt.date | None = Field(
        description="First day. Null with `period=all` if no month is stored."
    )
    through: dt.date | None = Field(
        description="Last day. Null with `period=all` if no month is stored."
    )
    type: Literal["top_packages"]


class TrendingPackage(BaseModel):
    """A package and its downloads in two weeks, known mirrors excluded."""

    growth: float = Field(
        description="Increase from the previous week to the last, as a ratio to the previous one, "
        f"rounded to {GROWTH_DECIMALS} decimals: 0.5 is an increase by half.",
        ge=0,
    )
    last_week: int = Field(description="Downloads in the latest 7 days.", ge=1)
    package: PackageField
    previous_week: int = Field(
        description="Downloads in the 7 days before.", ge=TREND_FLOOR_DOWNLOADS
    )
    rank: int = Field(
        description="Rank by growth, 1 for the largest. Equal growth is ranked by name.", ge=1
    )


class TrendingPackages(Payload):
    """The packages that grew most from week to week."""

    model_config = example_config(
        {
            "data": [
                {"growth": 1.5312, "last_week": 253120, "package": "requests"}
                | {"previous_week": 100000, "rank": 1}
            ],
            "type": "trending_packages",
        }
    )

    data: list[TrendingPackage] = Field(
        description="Ordered by rank. Empty if the two weeks can't be compared: one of the 14 days "
        "is not published, or the days were counted by different definitions (`/api/events`)."
    )
    followed_packages: FollowedPackages = None
    type: Literal["trending_packages"]


@router.endpoint(
    "/top",
    TopPackages,
    summary="Packages with the most downloads",
    ok_docs=csv_docs("downloads,package,rank,share\n1802331040,boto3,1,0.018532\n"),
    not_found="The month is not stored.",
)
async def top(query: Annotated[TopQuery, Query()], statistics: Statistics) -> RenderedBody:
    """The packages with the most downloads in a period or month, and their share of all downloads.

    Returns 404 for a month that is not stored. A month is stored once its days are final or no
    longer served.
    """
    days = _counted_days(query, statistics.publication)
    if query.month:
        found = await statistics.rankings.top_of_month(parse_month(query.month).first, query.limit)
    else:
        found = await statistics.rankings.top(query.period, query.limit)
    followed = _followed_packages(statistics)
    data = []
    for one in found:
        share = (
            None
            if followed is not None
            else round(one.downloads / one.all_downloads, SHARE_DECIMALS)
        )
        data.append(TopPackage(**one._asdict(), share=share))
    payload = TopPackages(
        data=data,
        days=len(days),
        followed_packages=followed,
        since=days[0] if days else None,
        through=days[-1] if days else None,
        type="top_packages",
    )
    return _render(query, payload)


def _counted_days(query: TopQuery, publication: Publication) -> Sequence[date]:
    """Return the days of a ranking, in order. Raises `NotFoundError`."""
    if query.month:
        stored = [one for one in publication.months if str(one.period) == query.month]
        if not stored:
            raise NotFoundError(_not_stored(query.month, publication.months))
        return days_in(stored)
    if query.period is RankedPeriod.ALL:
        return days_in(publication.months)
    before = publication.latest_day - timedelta(days=PERIOD_DAYS[query.period])
    return [day for day in publication.days if day > before]


def _not_stored(month: str, months: Sequence[StoredMonth]) -> str:
    stored = date_ranges(one.period for one in months) or "none"
    return (
        f"The month {month} is not stored. A month is stored once its days are final or no longer "
        f"served. Stored months: {stored}."
    )


@router.endpoint(
    "/trending",
    TrendingPackages,
    summary="Packages that grow most",
    description="The packages whose downloads grew most from the previous 7 days to the latest 7 "
    f"days. Only packages with at least {TREND_FLOOR_DOWNLOADS:,} downloads in each week are "
    "ranked. With fewer downloads, a single build job can look like a trend.",
    ok_docs=csv_docs(
        "growth,last_week,package,previous_week,rank\n1.5312,253120,requests,100000,1\n"
    ),
)
async def trending(query: Annotated[LimitQuery, Query()], statistics: Statistics) -> RenderedBody:
    comparable = are_comparable(statistics, TREND_DAYS)
    packages = await statistics.rankings.trending(query.limit) if comparable else []
    data = [
        TrendingPackage(growth=ratio_of_change(one.last_week, one.previous_week), **one._asdict())
        for one in packages
    ]
    followed = _followed_packages(statistics)
    payload = TrendingPackages(data=data, followed_packages=followed, type="trending_packages")
    return _render(query, payload)


def _followed_packages(statistics: Statistics) -> int | None:
    followed = statistics.publication.followed
    return None if followed is None else len(followed)


def _render(query: LimitQuery, payload: TopPackages | TrendingPackages) -> RenderedBody:
    model = TopPackage if isinstance(payload, TopPackages) else TrendingPackage
    rows = (one.model_dump().values() for one in payload.data)
    return query.render_table(
        payload.to_json, [*model.model_fields], rows, is_cacheable=is_round(query.limit)
    )


def are_comparable(statistics: Statistics, days: int) -> bool:
    """Return True if the latest `days` days were counted by the same definition of a download."""
    before = statistics.publication.latest_day - timedelta(days=days)
    rules = statistics.publication.counted_files.items()
    return statistics.events.are_comparable({day: rule for day, rule in rules if day > before})


def ratio_of_change(now: int, before: int) -> float:
    """Return the growth from `before` to `now` as a ratio to `before`."""
    return round((now - before) / before, GROWTH_DECIMALS)
