"""What there is to know of a package, in one answer."""

import datetime as dt
from typing import Literal

import orjson
from pydantic import BaseModel, Field

from app.api.endpoints import EndpointRouter, Package, Rendered, not_found
from app.api.events import dumped
from app.api.rankings import GROWTH_DECIMALS, are_comparable, ratio_of_change
from app.api.schemas import PackageField, example
from app.api.statistics import Statistics
from app.db.repositories.rankings_repository import MONTH_DAYS
from app.domain.breakdowns import BREAKDOWNS
from app.domain.events import Event
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import TREND_DAYS

router = EndpointRouter("/api/packages", "packages")


class BreakdownLink(BaseModel):
    """A time series by category."""

    name: str = Field(description="Of the breakdown.", examples=["system"])
    path: str = Field(
        description="Where it is answered.", examples=["/api/packages/requests/system"]
    )


class Change(BaseModel):
    """From the days before to the latest ones, as a ratio to those before: -0.25 is a quarter less.
    Null where there is nothing to compare with: no download before, a day that is not published or
    no longer held, or an event of the kind `definition` on one of the days, since which something
    else is counted. Only days that are all counted by the same rule are compared across it.
    """

    month: float | None = Field(
        description="Of the latest 30 days to the 30 before. Rounded to "
        f"{GROWTH_DECIMALS} decimals.",
        ge=-1,
    )
    week: float | None = Field(description="Of the latest 7 days to the 7 before.", ge=-1)


class Peak(BaseModel):
    """The day with most downloads, the first of them where several have as many."""

    date: dt.date = Field(description="UTC day.")
    downloads: int = Field(description="Number of downloads.", ge=1)


class AllRecentCounts(BaseModel):
    """Downloads up to and including the latest published day."""

    last_day: int = Field(description="On that day.", ge=0)
    last_month: int = Field(description="In 30 days.", ge=0)
    last_week: int = Field(description="In 7 days.", ge=0)


class Summary(BaseModel):
    """Figures of the days held, known mirrors excluded."""

    breakdowns: list[BreakdownLink] = Field(
        description="The time series by category, of which there are days."
    )
    change: Change
    downloads: int = Field(description="In all days held.", ge=0)
    events: list[Event] = Field(
        description="Known breaks in the figures of these days, newest first."
    )
    first_date: dt.date | None = Field(
        description="First day with a download, UTC; null without any."
    )
    latest_date: dt.date | None = Field(description="Latest such day; null without any.")
    peak: Peak | None = Field(description="Null without any download.")
    rank: int | None = Field(
        description="By downloads in the latest 30 days, among all packages: 1 has most, equal "
        "ones are ranked by name. Null without any, and for `__all__`.",
        ge=1,
    )
    recent: AllRecentCounts


class PackageSummary(BaseModel):
    """A package's figures in one answer."""

    model_config = example(
        {
            "data": {
                "breakdowns": [{"name": "system", "path": "/api/packages/requests/system"}],
                "change": {"month": 0.0312, "week": -0.0045},
                "downloads": 6904120331,
                "events": [],
                "first_date": "2026-05-25",
                "latest_date": "2026-11-20",
                "peak": {"date": "2026-11-17", "downloads": 48120033},
                "rank": 4,
                "recent": {
                    "last_day": 42817003,
                    "last_month": 1181283420,
                    "last_week": 279880123,
                },
            },
            "package": "requests",
            "type": "package_summary",
        }
    )

    data: Summary
    package: PackageField
    type: Literal["package_summary"]


@router.endpoint("/{package}", PackageSummary, summary="A package's figures in one answer")
async def summary(package: Package, statistics: Statistics) -> Rendered:
    """Recent downloads and how they changed, all downloads of the days held, the peak, the rank,
    and which breakdowns there are.
    """
    found = await statistics.rankings.summary(package)
    if found is None:
        raise not_found(package)
    recent = found.recent
    data = {
        "breakdowns": [
            {"name": breakdown.name, "path": f"/api/packages/{package}/{breakdown.name}"}
            for breakdown in BREAKDOWNS
            if statistics.publication.days_with(breakdown)
            and not (breakdown.is_of_one_package and package == ALL_PACKAGES)
        ],
        "change": {
            "month": _change(recent.last_month, found.previous_month)
            if are_comparable(statistics, 2 * MONTH_DAYS)
            else None,
            "week": _change(recent.last_week, found.previous_week)
            if are_comparable(statistics, TREND_DAYS)
            else None,
        },
        "downloads": found.downloads,
        "events": dumped(statistics.events.within(*statistics.publication.window)),
        "first_date": found.first_date,
        "latest_date": found.latest_date,
        "peak": {"date": found.peak_date, "downloads": found.peak_downloads}
        if found.peak_date
        else None,
        "rank": found.month_rank,
        "recent": {
            "last_day": recent.last_day,
            "last_month": recent.last_month,
            "last_week": recent.last_week,
        },
    }
    return Rendered(orjson.dumps({"data": data, "package": package, "type": "package_summary"}))


def _change(now: int, before: int | None) -> float | None:
    return ratio_of_change(now, before) if before else None
