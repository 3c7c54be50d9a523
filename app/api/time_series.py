"""Downloads of a package by day and category."""

import csv
import re
from collections.abc import Mapping
from datetime import date, timedelta
from functools import partial
from io import StringIO
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import orjson
from fastapi import Query
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
)

from app.api.endpoints import (
    EndpointQuery,
    EndpointRouter,
    Package,
    Rendered,
    not_found,
)
from app.api.formats import CSV
from app.api.offloading import LARGE_ITEMS, offloaded_if
from app.api.schemas import DailyDownloads, PackageField, example
from app.api.statistics import Statistics
from app.db.repositories.downloads_repository import WITH_MIRRORS, WITHOUT_MIRRORS, SeriesResult
from app.domain.breakdowns import BREAKDOWNS, NULL_CATEGORY, OTHER_CATEGORY, Breakdown
from app.domain.choice import Choice
from app.domain.downloads import Publication, Series, Window
from app.domain.package_name import ALL_PACKAGES
from app.domain.series import Interval, fill_with_zero, most_downloaded, sum_by
from app.errors import ArgumentError, InvalidArgumentsError, NotFoundError

router = EndpointRouter("/api/packages/{package}", "packages")

ALL_CATEGORIES = "all"
"""Value of a filter that selects all categories of a breakdown that shows only some by default."""

MAX_FILLED_ITEMS = 50_000
"""Maximum number of items with `fill`. All countries on 180 days are fewer; invented releases could
be any number.
"""

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class Fill(Choice):
    ZERO = "zero"


class SeriesFormat(Choice):
    JSON = "json"
    CSV = "csv"


class Mirrors(Choice):
    TRUE = "true"
    FALSE = "false"

    @property
    def category(self) -> str:
        return WITH_MIRRORS if self is Mirrors.TRUE else WITHOUT_MIRRORS


def parse_day(value: object) -> object:
    """Parse a day such as 2026-11-20. Raises `ValueError`."""
    if isinstance(value, str):
        try:
            if _DAY.fullmatch(value):
                return date.fromisoformat(value)
        except ValueError:
            pass
        raise ValueError("should be a day such as 2026-11-20")
    return value


Day = Annotated[date, BeforeValidator(parse_day)]


class RangeQuery(EndpointQuery):
    """Arguments of every series."""

    arbitrary: ClassVar = frozenset({"start_date", "end_date"})

    start_date: Day | None = Field(
        None,
        description="First day, UTC. The first of the days held when left out, or before it.",
    )
    end_date: Day | None = Field(
        None,
        description="Last day, included. The latest published one when left out, or after it.",
    )
    fill: Fill | None = Field(
        None,
        description="`zero` adds the days on which a category had no download, to each that has "
        "some in the range. Days that are not published stay out: they are not known.",
    )
    interval: Interval = Field(
        Interval.DAY,
        description="Sums of ISO weeks, by their Monday, or of calendar months, by their first "
        "day. Those of which a day is outside the range, or not published, are left out.",
    )

    @field_validator("end_date")
    @classmethod
    def _check_order(cls, end: date | None, info: ValidationInfo) -> date | None:
        start = info.data.get("start_date")
        if start and end and end < start:
            raise ValueError(f"should not be before start_date, which is {start}")
        return end

    def canonical(self, window: Window) -> Self:
        """Clamp the range to the window. All ranges outside it on one side become equal."""
        start, end = self.start_date, self.end_date
        if start is None and end is None:
            return self
        if start is not None:
            after = window.last + timedelta(days=1)
            start = min(start, after) if start > window.first else None
        if end is not None:
            before = window.first - timedelta(days=1)
            end = max(end, before) if end < window.last else None
        return self.model_copy(update={"start_date": start, "end_date": end})

    def days(self, window: Window) -> Window:
        """Return the requested days of the window."""
        return window.within(self.start_date, self.end_date)

    @property
    def needs_known_days(self) -> bool:
        """True if the response depends on which days are published, besides their downloads."""
        return bool(self.fill) or self.interval is not Interval.DAY

    def shape(self, found: SeriesResult, category: str | None) -> Series:
        """Select one category or all, then fill and sum. Raises `InvalidArgumentsError`."""
        series, known = found
        if category is not None:
            series = {category: series[category]} if category in series else {}
        if self.fill:
            items = len(series) * len(known)
            if items > MAX_FILLED_ITEMS:
                message = (
                    f"would make {items:,} items, of {MAX_FILLED_ITEMS:,} at most: "
                    "ask for one category or fewer days"
                )
                raise InvalidArgumentsError([ArgumentError("fill", message)])
            series = fill_with_zero(series, known)
        if self.interval is Interval.DAY:
            return series
        return sum_by(self.interval, series, known)


class SeriesQuery(RangeQuery):
    format: SeriesFormat = Field(
        SeriesFormat.JSON,
        description="Instead of the Accept header, where `text/csv` asks for CSV.",
    )

    def render(
        self, payload_type: str, package: str, found: SeriesResult, category: str | None
    ) -> Rendered:
        """Render one category or all as JSON or CSV. Raises `InvalidArgumentsError`."""
        series = self.shape(found, category)
        if self.format is SeriesFormat.CSV:
            return Rendered(_csv(series), CSV, is_cacheable=bool(series))
        body = orjson.dumps(payload(payload_type, package, series))
        return Rendered(body, is_cacheable=bool(series))


class MirrorsQuery(BaseModel):
    mirrors: Mirrors | None = Field(
        None, description="With known mirrors, or without them. Both when left out."
    )

    @property
    def category(self) -> str | None:
        return self.mirrors.category if self.mirrors else None


class OverallQuery(SeriesQuery, MirrorsQuery):
    """Arguments of `overall`."""


class SeriesPayload(BaseModel):
    data: list[DailyDownloads] = Field(
        description="Ordered by category, as text, and then by date. Empty when nothing of a known "
        "package matches the filter."
    )
    package: PackageField


def _series_example(payload_type: str, *categories: str) -> dict[str, object]:
    return {
        "data": [
            {"category": category, "date": day, "downloads": downloads}
            for category in categories
            for day, downloads in (("2026-11-19", 1520331), ("2026-11-20", 1498027))
        ],
        "package": "requests",
        "type": payload_type,
    }


class OverallDownloads(SeriesPayload):
    """Downloads by day, with and without known mirrors."""

    model_config = example(_series_example("overall_downloads", WITH_MIRRORS, WITHOUT_MIRRORS))

    type: Literal["overall_downloads"]


CSV_TOO: Mapping[str, Any] = {
    "content": {
        "text/csv": {
            "schema": {"type": "string"},
            "example": "category,date,downloads\r\nlinux,2026-11-20,1498027\r\n",
        }
    }
}


@router.endpoint(
    "/overall", OverallDownloads, summary="By day, with and without mirrors", ok=CSV_TOO
)
async def overall(
    package: Package, query: Annotated[OverallQuery, Query()], statistics: Statistics
) -> Rendered:
    """Downloads by day, with and without known mirrors."""
    window = statistics.publication.window
    found = await statistics.downloads.overall(
        [package], window, query.days(window), with_known=query.needs_known_days
    )
    if package not in found:
        raise not_found(package)
    return await _render(query, "overall_downloads", package, found[package], query.category)


async def _render(
    query: SeriesQuery, payload_type: str, package: str, found: SeriesResult, category: str | None
) -> Rendered:
    """Render a series, in a thread if it is large."""
    items = len(found.series) * len(found.known) if query.fill else 0
    items = max(items, sum(map(len, found.series.values())))
    is_large = items >= LARGE_ITEMS
    return await offloaded_if(is_large, query.render, payload_type, package, found, category)


def _add_breakdown(breakdown: Breakdown) -> None:
    """Declare the endpoint of a breakdown."""
    title = breakdown.name.title().replace("_", "")
    fields: dict[str, Any] = {breakdown.argument: _filter(breakdown, title)}
    query_model = create_model(f"{title}Query", __base__=SeriesQuery, **fields)
    described = f"Downloads by day and {breakdown.by}, known mirrors excluded."
    fields = {"type": (Literal[breakdown.payload_type], ...)}
    payload_model = create_model(
        f"{title}Downloads", __base__=SeriesPayload, __doc__=described, **fields
    )
    payload_model.model_config = example(
        _series_example(breakdown.payload_type, *breakdown.examples)
    )
    payload_model.model_rebuild(force=True)

    async def series(package: Package, query: SeriesQuery, statistics: Statistics) -> Rendered:
        _check_ingested(breakdown, package, statistics.publication)
        window = statistics.publication.window
        found = await statistics.downloads.breakdown(
            package, window, query.days(window), breakdown, with_known=query.needs_known_days
        )
        if found is None:
            raise not_found(package)
        category: str | None = getattr(query, breakdown.argument)
        if breakdown.shown_categories:
            if category is None:
                shown = most_downloaded(found.series, breakdown.shown_categories)
                found = found._replace(series=shown)
            elif category == ALL_CATEGORIES:
                category = None
        return await _render(query, breakdown.payload_type, package, found, category)

    series.__annotations__["query"] = Annotated[query_model, Query()]
    if breakdown.is_of_one_package:
        described += (
            f"\n\n404 also where this instance does not ingest it, and for `{ALL_PACKAGES}`."
        )
    elif breakdown.is_optional:
        described += "\n\n404 also where this instance does not ingest it."
    router.endpoint(
        f"/{breakdown.name}",
        payload_model,
        name=breakdown.name,
        summary=f"By day and {breakdown.by}",
        description=described,
        ok=CSV_TOO,
    )(series)


def _filter(breakdown: Breakdown, title: str) -> tuple[Any, Any]:
    """Return the type and the field of the argument that selects a category."""
    if isinstance(breakdown.categories, tuple):
        # The functional form of an enumeration, whose members mypy cannot know.
        kind = cast("Any", Choice)(
            f"{title}Category", {_member(value): value for value in breakdown.categories}
        )
        return kind | None, Field(None, description=breakdown.filter_help)
    pattern = breakdown.filter_pattern
    text = Annotated[str, BeforeValidator(partial(_category, breakdown))]
    return text | None, Field(
        None,
        description=breakdown.filter_help,
        examples=[breakdown.filter_example],
        json_schema_extra={"pattern": f"^({pattern})$"} if pattern else None,
    )


def _member(category: str) -> str:
    return re.sub(r"\W", "_", category).upper()


def _category(breakdown: Breakdown, value: object) -> object:
    """Return the category that a text names in any case. Raises `ValueError`."""
    if not isinstance(value, str):
        return value
    # Only ASCII letters have another case here: that of other letters can be ASCII.
    if value.lower() in {NULL_CATEGORY, OTHER_CATEGORY, ALL_CATEGORIES}:
        value = value.lower()
    elif breakdown.filter_pattern and value.isascii():
        value = value.upper()
    if breakdown.filter_pattern and not re.fullmatch(breakdown.filter_pattern, value):
        raise ValueError(f"should look like {breakdown.filter_example!r}, or be {NULL_CATEGORY!r}")
    return value


def _check_ingested(breakdown: Breakdown, package: str, publication: Publication) -> None:
    """Raise `NotFoundError` if no day can have figures of the breakdown."""
    if breakdown.is_of_one_package and package == ALL_PACKAGES:
        raise NotFoundError(f"{ALL_PACKAGES} has no {breakdown.name}: it belongs to one package.")
    if not publication.days_with(breakdown):
        raise NotFoundError(
            f"No day that is held has the {breakdown.name}: this instance does not ingest it. "
            f"Its operator can add {breakdown.name} to the setting INGEST_BREAKDOWNS."
        )


def payload(payload_type: str, package: str, series: Series) -> dict[str, object]:
    """Return the payload of one package's series."""
    data = [
        {"category": category, "date": day, "downloads": downloads}
        for category in sorted(series)
        for day, downloads in series[category]
    ]
    return {"data": data, "package": package, "type": payload_type}


def _csv(series: Series) -> bytes:
    """Return the same items as CSV (RFC 4180)."""
    table = StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("category", "date", "downloads"))
    for category in sorted(series):
        writer.writerows((category, day, downloads) for day, downloads in series[category])
    return table.getvalue().encode()


for _breakdown in BREAKDOWNS:
    _add_breakdown(_breakdown)
