"""Downloads of many packages in one response."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import astuple
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, cast

import orjson
from fastapi import Path, Query
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
)

from app.api import breakdown_series, overall, recent, time_series
from app.api.continuous_integration import recent_without_ci
from app.api.endpoints import EndpointRouter
from app.api.ingested import check_ingested
from app.api.offloading import offloaded_if
from app.api.payloads import Payload, RenderedBody, csv_docs, example_config
from app.api.queries import TableFormat, TableQuery
from app.api.statistics import Statistics
from app.db.repositories.downloads_repository import SeriesResult
from app.domain.breakdowns import BREAKDOWNS
from app.domain.choice import Choice, Truth
from app.domain.downloads import Publication, RecentDownloads, Series
from app.domain.package_name import ALL_PACKAGES, is_valid, normalise
from app.domain.series import SeriesSum

MAX_PACKAGES = 100

MAX_SUMMED_ITEMS = 500_000
"""Maximum number of items of a sum before it is limited to the categories with the most downloads.
They take about 50 MB.
"""

SUM = "__sum__"
"""Name of the sum of all requested packages in a payload. No real name normalises to it."""

router = EndpointRouter("/api/bulk", "details")


def _split(values: Sequence[str]) -> list[str]:
    names = [name for value in values for name in map(str.strip, value.split(",")) if name]
    if not names:
        raise ValueError("should name at least one package")
    return names


Name = Annotated[str, Field(min_length=1)]
PackageNames = Annotated[
    tuple[Name, ...],
    Field(min_length=1, max_length=MAX_PACKAGES),
    AfterValidator(lambda names: tuple(sorted(set(map(normalise, names))))),
    BeforeValidator(_split),
]


class PackagesQuery(TableQuery):
    unbounded_arguments: ClassVar = frozenset({"package"})

    package: PackageNames = Field(
        description="Names in any spelling, separated by commas or each in its own `package=`.",
        examples=[["requests", "flask"]],
    )
    sum: Truth = Field(
        Truth.FALSE,
        description=f"`true` returns the sum of all packages, as that of the package `{SUM}`. It "
        f"should not be combined with `{ALL_PACKAGES}` and other names.",
    )

    @field_validator("sum")
    @classmethod
    def _check_counted_once(cls, is_sum: Truth, info: ValidationInfo) -> Truth:
        names = info.data.get("package", ())
        if is_sum is Truth.TRUE and ALL_PACKAGES in names and len(names) > 1:
            raise ValueError(f"should not be true for {ALL_PACKAGES} beside packages it contains")
        return is_sum

    @property
    def is_sum(self) -> bool:
        return self.sum is Truth.TRUE

    def possible(self, publication: Publication) -> list[str]:
        """Return the requested names that a package can have. Others are always missing."""
        has_all = publication.followed is None
        return [
            name for name in self.package if is_valid(name) or (name == ALL_PACKAGES and has_all)
        ]

    def render_many(
        self,
        payload_type: str,
        payloads: Mapping[str, object],
        found: Collection[str],
        head: Sequence[str],
        rows: Iterable[Iterable[object]],
    ) -> RenderedBody:
        """Render payloads in the order of the names, and list requested names that were not found
        as missing. A CSV contains only the rows.
        """
        missing = [name for name in self.package if name not in found]
        data = [payloads[name] for name in sorted(payloads)]
        result = {"data": data, "missing": missing, "type": payload_type}
        # Clients can request any text as a name.
        return self.render_table(lambda: orjson.dumps(result), head, rows, is_cacheable=not missing)


class BulkRecentQuery(recent.RecentQuery, PackagesQuery):
    """Arguments of `recent` for many packages."""


class BulkSeriesQuery(time_series.SeriesQuery, PackagesQuery):
    """Arguments of every series for many packages."""

    unbounded_arguments: ClassVar = (
        time_series.SeriesQuery.unbounded_arguments | PackagesQuery.unbounded_arguments
    )


class BulkOverallQuery(overall.OverallQuery, BulkSeriesQuery):
    """Arguments of `overall` for many packages."""


def _bulk_example(payload_type: str, payload: type[Payload]) -> ConfigDict:
    extra = payload.model_config["json_schema_extra"]
    assert isinstance(extra, dict)
    return example_config(
        {"data": extra["examples"], "missing": ["reqeusts"], "type": payload_type}
    )


class BulkPayload(Payload):
    missing: list[str] = Field(
        description="Requested names without downloads in the days served or, with "
        "`interval=month`, in any known month. They are normalised and sorted.",
        examples=[["reqeusts"]],
    )


_DATA = Field(description=f"Ordered by package. With `sum`, only that of `{SUM}`.")


class RecentDownloadsOfMany(BulkPayload):
    """Downloads of the latest day, week and month of several packages."""

    model_config = _bulk_example("recent_downloads_of_many", recent.RecentDownloads)

    data: list[recent.RecentDownloads] = _DATA
    type: Literal["recent_downloads_of_many"]


class OverallDownloadsOfMany(BulkPayload):
    """Downloads by day, with and without known mirrors, of several packages."""

    model_config = _bulk_example("overall_downloads_of_many", overall.OverallDownloads)

    data: list[overall.OverallDownloads] = _DATA
    type: Literal["overall_downloads_of_many"]


@router.endpoint(
    "/recent",
    RecentDownloadsOfMany,
    summary="Latest day, week and month of many packages",
    ok_docs=csv_docs(
        "package,last_day,last_month,last_week\nrequests,42817003,1181283420,279880123\n"
    ),
    errors=[414],
)
async def bulk_recent(
    query: Annotated[BulkRecentQuery, Query()], statistics: Statistics
) -> RenderedBody:
    """The response of `recent` for each package. Unknown packages are listed as missing."""
    names = query.possible(statistics.publication)
    if query.ci:
        found = await recent_without_ci(names, query.period, statistics)
    else:
        found = await statistics.downloads.recent_of_many(names)
    counts: Mapping[str, RecentDownloads] = found
    if query.is_sum and found:
        counts = {SUM: RecentDownloads(*map(sum, zip(*map(astuple, found.values()), strict=True)))}
    payloads = {name: recent.payload(name, one, query.period) for name, one in counts.items()}
    rows = ((name, *payloads[name]["data"].values()) for name in sorted(payloads))
    head = recent.columns(query.period)
    return query.render_many("recent_downloads_of_many", payloads, found, head, rows)


@router.endpoint(
    "/overall",
    OverallDownloadsOfMany,
    summary="By day, with and without mirrors, of many packages",
    ok_docs=csv_docs("package,category,date,downloads\nrequests,with_mirrors,2026-11-20,1498027\n"),
    errors=[414],
)
async def bulk_overall(
    query: Annotated[BulkOverallQuery, Query()], statistics: Statistics
) -> RenderedBody:
    """The response of `overall` for each package. Unknown packages are listed as missing."""
    found = await overall.read_many(query.possible(statistics.publication), query, statistics)
    return await _render(query, "overall_downloads", found.items(), lambda one: one, statistics)


_BREAKDOWNS = {one.name: one for one in BREAKDOWNS}

BreakdownName = cast("Any", Choice)("BreakdownName", {name.upper(): name for name in _BREAKDOWNS})
"""Names of the breakdowns."""


def _filters() -> dict[str, Any]:
    """Return the argument of each breakdown as an optional text. The handler validates it, because
    the breakdown depends on the path.
    """
    names: dict[str, list[str]] = {}
    for one in BREAKDOWNS:
        names.setdefault(one.argument, []).append(f"`{one.name}`")
    return {
        argument: (
            str | None,
            Field(None, description=f"One category of {' or '.join(of)}, as for one package."),
        )
        for argument, of in names.items()
    }


BulkBreakdownQuery = create_model(
    "BulkBreakdownQuery", __base__=BulkSeriesQuery, **cast("Any", _filters())
)


def _one_of(name: str, suffix: str) -> dict[str, Any]:
    """Return the field `type` of a payload, an enumeration with this name."""
    return {"type": (StrEnum(name, {n.upper(): f"{n}_{suffix}" for n in _BREAKDOWNS}), ...)}


BreakdownDownloads = create_model(
    "BreakdownDownloads",
    __base__=time_series.SeriesPayload,
    __doc__="Downloads by day and category, known mirrors excluded.",
    **_one_of("BreakdownType", "downloads"),
)
BreakdownDownloads.model_config = time_series.series_example("system_downloads", "linux")


class _OfMany(BulkPayload):
    data: list[BreakdownDownloads] = _DATA


BreakdownDownloadsOfMany = create_model(
    "BreakdownDownloadsOfMany",
    __base__=_OfMany,
    __doc__="Downloads by day and category of several packages, known mirrors excluded.",
    **_one_of("BulkBreakdownType", "downloads_of_many"),
)
BreakdownDownloadsOfMany.model_config = _bulk_example(
    "system_downloads_of_many", BreakdownDownloads
)


async def bulk_breakdown(
    breakdown: str, query: Annotated[BulkBreakdownQuery, Query()], statistics: Statistics
) -> RenderedBody:
    """The response of a breakdown for each package. Unknown packages are listed as missing, and so
    is `__all__` if it does not have the breakdown.

    Returns 404 if this instance does not ingest the breakdown.
    """
    one = _BREAKDOWNS[breakdown]
    category = breakdown_series.parse_category(one, getattr(query, one.argument))
    names = [
        name
        for name in query.possible(statistics.publication)
        if not (one.is_of_one_package and name == ALL_PACKAGES)
    ]
    range_ = query.range_in(statistics.publication, names)
    check_ingested(one, statistics.publication, range_)
    found = await statistics.downloads.breakdown_of_many(
        names, range_, one, with_days=query.needs_published_days
    )

    def select(series: Series) -> Series:
        return breakdown_series.selected(one, category, series)

    return await _render(query, one.payload_type, found, select, statistics)


bulk_breakdown.__annotations__["breakdown"] = Annotated[
    BreakdownName, Path(description="Name of the breakdown.", examples=["system"])
]
router.endpoint(
    "/{breakdown}",
    BreakdownDownloadsOfMany,
    summary="By day and category, of many packages",
    ok_docs=csv_docs("package,category,date,downloads\nrequests,linux,2026-11-20,1498027\n"),
    errors=[404, 414],
)(bulk_breakdown)


async def _render(
    query: BulkSeriesQuery,
    payload_type: str,
    results: Iterable[tuple[str, SeriesResult]],
    select: Callable[[Series], Series],
    statistics: Statistics,
) -> RenderedBody:
    """Render the selected categories of each package, or of the sum of all packages.

    Raises `InvalidArgumentsError`.
    """
    served, events = statistics.publication.served, query.events(statistics)
    series: dict[str, Series] = {}
    payloads: dict[str, orjson.Fragment] = {}

    def add(name: str, found: SeriesResult) -> int:
        """Add a series in the requested format, and return its number of items."""
        shaped = query.shape(found, served)
        if query.format is TableFormat.CSV:
            series[name] = shaped
        else:
            payload = time_series.payload(payload_type, name, shaped, events)
            payloads[name] = orjson.Fragment(orjson.dumps(payload))
        return sum(map(len, shaped.values()))

    names, items, total = [], 0, SeriesSum()
    published_days: Sequence[date] = ()
    months: Sequence[date] = ()
    for name, one in results:
        names.append(name)
        if query.is_sum:
            total.add(one.series)
            _, published_days, months = one
            time_series.check_items(total.items, "package", MAX_SUMMED_ITEMS)
        else:
            shown = one._replace(series=select(one.series))
            items += await offloaded_if(time_series.is_large(query, shown), add, name, shown)
            time_series.check_items(items, "package")
        # A hundred packages take some 50 ms, so let other requests run after each of them.
        await asyncio.sleep(0)
    if query.is_sum and names:
        shown = SeriesResult(select(total.series), published_days, months)
        await offloaded_if(time_series.is_large(query, shown), add, SUM, shown)
    rows = ((name, *row) for name in sorted(series) for row in time_series.rows_of(series[name]))
    head = ("package", *time_series.ITEM_COLUMNS)
    return query.render_many(f"{payload_type}_of_many", payloads, names, head, rows)
