"""A package's downloads in all known months, and their sum."""

import datetime as dt
from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, Field

from app.api.endpoints import EndpointRouter, Package, never_downloaded
from app.api.payloads import PackageField, Payload, RenderedBody, csv_docs, example_config
from app.api.queries import TableQuery
from app.api.statistics import Statistics
from app.domain.history import History
from app.domain.months import MONTH_PATTERN, Month

router = EndpointRouter("/api/packages/{package}", "details")

MAX_MISSING_RANGES = 100
"""Maximum number of gaps that a response lists. `days` counts the known days in any case."""


class MonthCounts(BaseModel):
    """Downloads in the known days of a month."""

    month: str = Field(description="Calendar month.", pattern=MONTH_PATTERN)
    with_mirrors: int = Field(description="Downloads, including known mirrors.", ge=0)
    without_mirrors: int = Field(description="Downloads, excluding known mirrors.", ge=0)
    days: int = Field(
        description="Number of days whose downloads are known. The running month has the days "
        "published so far.",
        ge=1,
        le=31,
    )
    rank: int | None = Field(
        description="Rank by downloads without mirrors among all packages, 1 for the most. Null "
        "until the month is stored, without downloads, for `__all__`, and if this instance "
        "follows only some packages.",
        ge=1,
    )


class AllDownloads(BaseModel):
    """Sum of the downloads in all known days, known mirrors excluded."""

    downloads: int = Field(description="Number of downloads.", ge=0)
    since: dt.date = Field(description="First known day of this instance, for any package.")
    through: dt.date = Field(description="Last known day.")


class DateRange(BaseModel):
    """A range of days."""

    since: dt.date = Field(description="First day.")
    through: dt.date = Field(description="Last day, included.")


class KnownDownloads(AllDownloads):
    """Sum of the downloads in all known days, known mirrors excluded, and the days it lacks."""

    days: int = Field(description="Number of known days.", ge=1)
    missing: list[DateRange] = Field(
        description="Days between `since` and `through` whose downloads are unknown, latest first. "
        f"At most {MAX_MISSING_RANGES} ranges are listed."
    )


class MonthsAndTotal(BaseModel):
    """Downloads by month and their sum."""

    months: list[MonthCounts] = Field(
        description="Months with downloads of the package, in order. Months of which some days are "
        "missing are included."
    )
    total: KnownDownloads


class PackageHistory(Payload):
    """A package's downloads in all known months, and their sum."""

    model_config = example_config(
        {
            "data": {
                "months": [
                    {"month": "2026-09", "with_mirrors": 1201233117, "without_mirrors": 1188201554}
                    | {"days": 29, "rank": 5},
                    {"month": "2026-10", "with_mirrors": 1262930211, "without_mirrors": 1240018337}
                    | {"days": 31, "rank": 4},
                ],
                "total": {"downloads": 2428219891, "since": "2026-09-01", "through": "2026-10-31"}
                | {"days": 60, "missing": [{"since": "2026-09-12", "through": "2026-09-12"}]},
            },
            "package": "requests",
            "type": "package_history",
        }
    )

    data: MonthsAndTotal
    package: PackageField
    type: Literal["package_history"]


@router.endpoint(
    "/history",
    PackageHistory,
    summary="All known months and their sum",
    ok_docs=csv_docs(
        "month,with_mirrors,without_mirrors,days,rank\n2026-10,1262930211,1240018337,31,4\n"
    ),
)
async def history(
    package: Package, query: Annotated[TableQuery, Query()], statistics: Statistics
) -> RenderedBody:
    """Downloads of each month that is known, also before the days served, and the sum of all known
    days. A CSV contains only the months.
    """
    known = statistics.publication.history_of([package])
    rows = await statistics.downloads.history(package, known)
    if not rows:
        raise never_downloaded(package)
    months = [
        MonthCounts(
            month=str(Month(one.month)),
            with_mirrors=one.with_mirrors,
            without_mirrors=one.without_mirrors,
            days=known.days_by_month[one.month],
            rank=one.rank if statistics.publication.followed is None else None,
        )
        for one in rows
    ]
    total = KnownDownloads(
        **all_downloads(known, sum(one.without_mirrors for one in rows)).model_dump(),
        days=len(known.known_days),
        missing=[
            DateRange(since=first, through=last)
            for first, last in known.missing_ranges[:MAX_MISSING_RANGES]
        ],
    )
    data = MonthsAndTotal(months=months, total=total)
    payload = PackageHistory(data=data, package=package, type="package_history")
    table = (one.model_dump().values() for one in months)
    return query.render_table(payload.to_json, [*MonthCounts.model_fields], table)


def all_downloads(known: History, downloads: int) -> AllDownloads:
    """Return a sum of downloads with the days that it covers."""
    days = known.known_days
    return AllDownloads(downloads=downloads, since=days[0], through=days[-1])
