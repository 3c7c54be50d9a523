"""Python versions that a package is downloaded with, for deciding which to support."""

import asyncio
import datetime as dt
from collections.abc import Collection
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api import breakdown_series
from app.api.endpoints import EndpointRouter, Package
from app.api.payloads import PackageField, Payload, RenderedBody, example_config
from app.api.statistics import Statistics
from app.api.time_series import RangeQuery
from app.db.repositories.downloads_repository import SeriesResult
from app.domain.breakdowns import PYTHON_MINOR
from app.domain.events import Event, EventKind
from app.domain.python_versions import PYTHON_SCHEDULE
from app.domain.trends import MIN_DAYS, SHARE_DAYS, DayShare, Prediction, Trend, fit_trend

EARLIER_DAYS = 90
"""Days between a share and the earlier one with which it is compared."""

SHARE_DECIMALS = 4
CHANGE_DECIMALS = 2

router = EndpointRouter("/api/packages/{package}", "details")


class Crossing(BaseModel):
    """The day on which the share falls below a threshold if its trend continues."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    date: dt.date | None = Field(None, description="The most likely day, or null.")
    earliest: dt.date | None = Field(None, description="First day of the interval of 90%, or null.")
    latest: dt.date | None = Field(None, description="Last day of the interval of 90%, or null.")
    reason: str | None = Field(None, description="Why there is no day. Null if there is one.")


ChangePerMonth = Annotated[
    float | None,
    Field(
        description="Mean change from the earlier share, in percentage points per 30 days, rounded "
        f"to {CHANGE_DECIMALS} decimals. Null without one of the shares, or if an event of the "
        "kind `definition` is between their days, unless all are counted by the same rule."
    ),
]
PreviousShare = Annotated[
    float | None,
    Field(
        description=f"Share in the {SHARE_DAYS} days that end {EARLIER_DAYS} days before the "
        "latest published day. Null without a download on these days.",
        ge=0,
        le=1,
    ),
]
Share = Annotated[
    float | None,
    Field(
        description=f"Share of the package's downloads in the {SHARE_DAYS} days that end with the "
        f"latest published day, known mirrors excluded, rounded to {SHARE_DECIMALS} decimals. Null "
        "without a download on these days.",
        ge=0,
        le=1,
    ),
]
Version = Annotated[str, Field(description="Minor version of Python.", examples=["3.9"])]


class SupportedVersion(BaseModel):
    """Share of a version of Python, its end of life, and its trend."""

    below_1_percent: Crossing
    below_5_percent: Crossing
    change_per_month: ChangePerMonth
    end_of_life: dt.date = Field(
        description=f"End of life by Python's schedule of {PYTHON_SCHEDULE.as_of}. A planned day "
        "is the last one of the month."
    )
    previous_share: PreviousShare
    share: Share
    version: Version


class UnknownVersion(BaseModel):
    """Share of a version that Python's schedule does not have."""

    change_per_month: ChangePerMonth
    previous_share: PreviousShare
    share: Share
    version: Version


class PythonSupport(Payload):
    """Minor versions of Python by their share in a package's downloads."""

    model_config = example_config(
        {
            "data": [
                {
                    "below_1_percent": {
                        "date": "2028-04-11",
                        "earliest": "2028-02-20",
                        "latest": "2028-06-07",
                    },
                    "below_5_percent": {
                        "date": "2027-01-18",
                        "earliest": "2027-01-10",
                        "latest": "2027-01-28",
                    },
                    "change_per_month": -1.11,
                    "end_of_life": "2025-10-31",
                    "previous_share": 0.1013,
                    "share": 0.0681,
                    "version": "3.9",
                },
                {
                    "below_1_percent": {"reason": "The share is not clearly declining."},
                    "below_5_percent": {"reason": "The share is not clearly declining."},
                    "change_per_month": 0.9,
                    "end_of_life": "2030-10-31",
                    "previous_share": 0.1102,
                    "share": 0.1371,
                    "version": "3.14",
                },
            ],
            "events": [],
            "package": "requests",
            "type": "python_support",
            "unknown": [
                {"change_per_month": 0.02, "previous_share": 0.0307, "share": 0.0312}
                | {"version": "null"}
            ],
        }
    )

    data: list[SupportedVersion] = Field(
        description="Versions of Python's schedule with downloads in the days served, oldest first."
    )
    events: list[Event] = Field(
        description="Events of the kind `definition` in the days served, newest first. A trend is "
        "fitted only to days that are counted like the latest one."
    )
    package: PackageField
    type: Literal["python_support"]
    unknown: list[UnknownVersion] = Field(
        description="Versions that Python's schedule does not have, and `null` for downloads "
        "without a version. Their downloads are a part of the whole of all shares, and are not "
        "divided among other versions."
    )


@router.endpoint(
    "/python_support",
    PythonSupport,
    summary="Python versions: shares, ends of life, and trends",
    description="Each minor version of Python with its share in the latest 30 days, its change, "
    "its end of life, and the days on which its share falls below 5% and 1% if the trend "
    "continues. The trend is a logistic curve that is fitted to the shares of all days served, and "
    "ignores outliers. Its interval contains the day with a probability of 90%, as long as the "
    f"trend continues. There is no day, but a reason, if there are fewer than {MIN_DAYS} days, too "
    "few downloads, or no clear decline.",
)
async def python_support(package: Package, statistics: Statistics) -> RenderedBody:
    found = await breakdown_series.read(
        PYTHON_MINOR, package, RangeQuery(), statistics, with_days=True
    )
    # The fits take some 50 ms.
    payload = await asyncio.to_thread(_payload, package, found, statistics)
    return RenderedBody(payload.to_json())


def _payload(package: str, found: SeriesResult, statistics: Statistics) -> PythonSupport:
    shares = _Shares(found, statistics)
    versions = [one for one in PYTHON_SCHEDULE.end_of_life if one in found.series]
    unknown = sorted(found.series.keys() - set(versions))
    within = statistics.events.within(*statistics.publication.window)
    return PythonSupport(
        data=[shares.supported(version) for version in versions],
        events=[event for event in within if event.kind is EventKind.DEFINITION],
        package=package,
        type="python_support",
        unknown=[UnknownVersion.model_validate(shares.of(version)) for version in unknown],
    )


class _Shares:
    """Shares of versions in a package's downloads."""

    def __init__(self, found: SeriesResult, statistics: Statistics) -> None:
        publication, events = statistics.publication, statistics.events
        latest = publication.latest_day
        self._downloads = {version: dict(items) for version, items in found.series.items()}
        self._whole = {
            day: sum(counts.get(day, 0) for counts in self._downloads.values())
            for day in found.published_days
        }
        self._recent = self._days_until(latest)
        self._earlier = self._days_until(latest - timedelta(days=EARLIER_DAYS))
        rules = publication.counted_files
        self._is_comparable = events.are_comparable(
            {day: rules[day] for day in (*self._recent, *self._earlier)}
        )
        definition = events.definition(latest, rules[latest])
        self._fitted = [
            day for day in self._whole if events.definition(day, rules[day]) == definition
        ]

    def _days_until(self, last: dt.date) -> list[dt.date]:
        return [day for day in self._whole if last - timedelta(days=SHARE_DAYS) < day <= last]

    def of(self, version: str) -> dict[str, float | str | None]:
        """Return the share of a version and its change."""
        share = self._share(version, self._recent)
        previous = self._share(version, self._earlier)
        change = None
        if share is not None and previous is not None and self._is_comparable:
            months = EARLIER_DAYS / SHARE_DAYS
            change = round(100 * (share - previous) / months, CHANGE_DECIMALS)
        return {
            "change_per_month": change,
            "previous_share": previous and round(previous, SHARE_DECIMALS),
            "share": share and round(share, SHARE_DECIMALS),
            "version": version,
        }

    def supported(self, version: str) -> SupportedVersion:
        counts = self._downloads[version]
        trend = fit_trend(
            [DayShare(day, counts.get(day, 0), self._whole[day]) for day in self._fitted]
        )
        return SupportedVersion.model_validate(
            {
                **self.of(version),
                "below_1_percent": _crossing(trend, 0.01),
                "below_5_percent": _crossing(trend, 0.05),
                "end_of_life": PYTHON_SCHEDULE.end_of_life[version],
            }
        )

    def _share(self, version: str, days: Collection[dt.date]) -> float | None:
        whole = sum(self._whole[day] for day in days)
        counts = self._downloads[version]
        return sum(counts.get(day, 0) for day in days) / whole if whole else None


def _crossing(trend: Trend | str, threshold: float) -> Crossing:
    found = Prediction(reason=trend) if isinstance(trend, str) else trend.falls_below(threshold)
    return Crossing(
        date=found.day, earliest=found.earliest, latest=found.latest, reason=found.reason
    )
