"""A package's figures in one response."""

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.endpoints import EndpointRouter, Package, not_found
from app.api.history import AllDownloads, all_downloads
from app.api.payloads import PackageField, Payload, RenderedBody, example_config
from app.api.rankings import are_comparable, ratio_of_change
from app.api.recent import RECENT_EXAMPLE
from app.api.statistics import Statistics
from app.domain.breakdowns import BREAKDOWNS
from app.domain.events import Event
from app.domain.package_name import ALL_PACKAGES
from app.domain.rankings import MONTH_DAYS, TREND_DAYS

router = EndpointRouter("/api/packages", "details")


class BreakdownLink(BaseModel):
    """A time series by category."""

    name: str = Field(description="Name of the breakdown.", examples=["system"])
    path: str = Field(description="Path of the series.", examples=["/api/packages/requests/system"])


class Change(BaseModel):
    """Change of the downloads from the previous period to the latest one, as a ratio to the
    previous one, rounded to 4 decimals: -0.25 is a quarter less. Null if the previous period has no
    downloads, if a day is not published, or if an event of the kind `definition` is on one of the
    days, unless all of them are counted by the same rule.
    """

    month: float | None = Field(description="Change to the latest 30 days.", ge=-1)
    week: float | None = Field(description="Change to the latest 7 days.", ge=-1)


class Peak(BaseModel):
    """The day with the most downloads. If several days have equally many, it is the first
    of them.
    """

    date: dt.date = Field(description="UTC day.")
    downloads: int = Field(description="Number of downloads.", ge=1)


class AllRecentCounts(BaseModel):
    """Downloads up to and including the latest published day."""

    model_config = ConfigDict(from_attributes=True)

    last_day: int = Field(description="On that day.", ge=0)
    last_month: int = Field(description="In 30 days.", ge=0)
    last_week: int = Field(description="In 7 days.", ge=0)


class Summary(BaseModel):
    """Figures of the days served, and the sum of all known days, known mirrors excluded."""

    breakdowns: list[BreakdownLink] = Field(
        description="The series by category that this instance has figures for."
    )
    change: Change
    downloads: int = Field(description="Downloads in all days served.", ge=0)
    events: list[Event] = Field(description="Known breaks in these days' figures, newest first.")
    first_date: dt.date | None = Field(
        description="First day with a download. Null if there is none."
    )
    latest_date: dt.date | None = Field(description="Last day with a download. Null without any.")
    peak: Peak | None = Field(description="Null without any download.")
    rank: int | None = Field(
        description="Rank by downloads in the latest 30 days among all packages, 1 for the most. "
        "Equal counts are ranked by name. Null without downloads, for `__all__`, and if this "
        "instance follows only some packages.",
        ge=1,
    )
    recent: AllRecentCounts
    total: AllDownloads


class PackageSummary(Payload):
    """A package's figures in one response."""

    model_config = example_config(
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
                "recent": RECENT_EXAMPLE["data"],
                "total": {
                    "downloads": 48120331905,
                    "since": "2018-08-01",
                    "through": "2026-11-20",
                },
            },
            "package": "requests",
            "type": "package_summary",
        }
    )

    data: Summary
    package: PackageField
    type: Literal["package_summary"]


@router.endpoint("/{package}", PackageSummary, summary="A package's figures in one response")
async def summary(package: Package, statistics: Statistics) -> RenderedBody:
    """Recent downloads and their change, all downloads of the days served, the peak, the rank, and
    the available breakdowns.
    """
    known = statistics.publication.history_of([package])
    found = await statistics.rankings.summary(package, known)
    if found is None:
        raise await not_found(package, statistics)
    recent = found.recent
    events = statistics.events.within(*statistics.publication.window)
    data = Summary(
        breakdowns=[
            BreakdownLink(name=one.name, path=f"/api/packages/{package}/{one.name}")
            for one in BREAKDOWNS
            if statistics.publication.has(one)
            and not (one.is_of_one_package and package == ALL_PACKAGES)
        ],
        change=Change(
            month=_change(statistics, 2 * MONTH_DAYS, recent.last_month, found.previous_month),
            week=_change(statistics, TREND_DAYS, recent.last_week, found.previous_week),
        ),
        downloads=found.downloads,
        events=list(events),
        first_date=found.first_date,
        latest_date=found.latest_date,
        peak=found.peak_date and Peak(date=found.peak_date, downloads=found.peak_downloads),
        rank=found.month_rank if statistics.publication.followed is None else None,
        recent=AllRecentCounts.model_validate(recent),
        total=all_downloads(known, found.total),
    )
    payload = PackageSummary(data=data, package=package, type="package_summary")
    return RenderedBody(payload.to_json())


def _change(statistics: Statistics, days: int, now: int, before: int | None) -> float | None:
    """Return the change from `before` to `now`, or None if the days are not comparable."""
    return ratio_of_change(now, before) if before and are_comparable(statistics, days) else None
