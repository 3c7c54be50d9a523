"""Downloads of many packages in one response."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import orjson
from fastapi import Query
from pydantic import AfterValidator, ConfigDict, Field

from app.api import recent, time_series
from app.api.endpoints import EndpointRouter
from app.api.payloads import Payload, Rendered, csv_too, example
from app.api.queries import TableQuery
from app.api.statistics import Statistics
from app.domain.package_name import ALL_PACKAGES, is_valid, normalise

MAX_PACKAGES = 100

router = EndpointRouter("/api/bulk", "details")


Name = Annotated[str, Field(min_length=1)]
Names = Annotated[
    tuple[Name, ...], AfterValidator(lambda names: tuple(sorted(set(map(normalise, names)))))
]


class PackagesQuery(TableQuery):
    arbitrary: ClassVar = frozenset({"package"})

    package: Names = Field(
        description="Names in any spelling, one in each `package=`.",
        examples=[["requests", "flask"]],
        min_length=1,
        max_length=MAX_PACKAGES,
    )

    @property
    def possible(self) -> list[str]:
        """Requested names that a package can have. Others are always missing."""
        return [name for name in self.package if is_valid(name) or name == ALL_PACKAGES]

    def render_many(
        self,
        payload_type: str,
        payloads: Mapping[str, object],
        head: Sequence[str],
        rows: Iterable[Iterable[object]],
    ) -> Rendered:
        """Render payloads in the order of the requested names, and list names without a payload as
        missing. A CSV contains only the rows.
        """
        missing = [name for name in self.package if name not in payloads]
        data = [payloads[name] for name in self.package if name in payloads]
        result = {"data": data, "missing": missing, "type": payload_type}
        # Clients can request any text as a name.
        return self.render_table(lambda: orjson.dumps(result), head, rows, is_cacheable=not missing)


class BulkRecentQuery(recent.RecentQuery, PackagesQuery):
    """Arguments of `recent` for many packages."""


class BulkOverallQuery(time_series.OverallQuery, PackagesQuery):
    """Arguments of `overall` for many packages."""

    arbitrary: ClassVar = time_series.SeriesQuery.arbitrary | PackagesQuery.arbitrary


def _bulk_example(payload_type: str, payload: type[Payload]) -> ConfigDict:
    extra = payload.model_config["json_schema_extra"]
    assert isinstance(extra, dict)
    return example({"data": extra["examples"], "missing": ["reqeusts"], "type": payload_type})


class BulkPayload(Payload):
    missing: list[str] = Field(
        description="Requested names without downloads in the days served, normalised and sorted.",
        examples=[["reqeusts"]],
    )


class RecentDownloadsOfMany(BulkPayload):
    """Downloads of the latest day, week and month of several packages."""

    model_config = _bulk_example("recent_downloads_of_many", recent.RecentDownloads)

    data: list[recent.RecentDownloads] = Field(description="Ordered by package.")
    type: Literal["recent_downloads_of_many"]


class OverallDownloadsOfMany(BulkPayload):
    """Downloads by day, with and without known mirrors, of several packages."""

    model_config = _bulk_example("overall_downloads_of_many", time_series.OverallDownloads)

    data: list[time_series.OverallDownloads] = Field(description="Ordered by package.")
    type: Literal["overall_downloads_of_many"]


@router.endpoint(
    "/recent",
    RecentDownloadsOfMany,
    summary="Latest day, week and month of many packages",
    ok=csv_too("package,last_day,last_month,last_week\nrequests,42817003,1181283420,279880123\n"),
    errors=[414],
)
async def bulk_recent(
    query: Annotated[BulkRecentQuery, Query()], statistics: Statistics
) -> Rendered:
    """The response of `recent` for each package. Unknown packages are listed as missing."""
    counts = await statistics.downloads.recent_of_many(query.possible)
    payloads = {name: recent.payload(name, one, query.period) for name, one in counts.items()}
    rows = ((name, *payloads[name]["data"].values()) for name in sorted(payloads))
    head = recent.columns(query.period)
    return query.render_many("recent_downloads_of_many", payloads, head, rows)


@router.endpoint(
    "/overall",
    OverallDownloadsOfMany,
    summary="By day, with and without mirrors, of many packages",
    ok=csv_too("package,category,date,downloads\nrequests,with_mirrors,2026-11-20,1498027\n"),
    errors=[414],
)
async def bulk_overall(
    query: Annotated[BulkOverallQuery, Query()], statistics: Statistics
) -> Rendered:
    """The response of `overall` for each package. Unknown packages are listed as missing."""
    window = statistics.publication.window
    days = query.days(window)
    categories = 1 if query.category else 2
    items = len(query.possible) * categories * max(0, (days.last - days.first).days + 1)
    time_series.check_items(items, "package")
    found = await statistics.downloads.overall(
        query.possible, window, query.days_read(window), with_days=query.needs_published_days
    )
    events = query.events(statistics)
    series, payloads = {}, {}
    for name, one in found.items():
        series[name] = query.shape(one, query.category, window)
        payload = time_series.payload("overall_downloads", name, series[name], events)
        payloads[name] = orjson.Fragment(orjson.dumps(payload))
        # A hundred packages take some 50 ms, so let other requests run after each of them.
        await asyncio.sleep(0)
    rows = ((name, *row) for name in sorted(series) for row in time_series.rows_of(series[name]))
    head = ("package", *time_series.ITEM_COLUMNS)
    return query.render_many("overall_downloads_of_many", payloads, head, rows)
