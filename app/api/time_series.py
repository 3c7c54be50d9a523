"""Downloads of a package by day: the arguments and the payload that all series share."""

import datetime as dt
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from typing import Annotated, ClassVar, Self

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from app.api.offloading import LARGE_ITEMS, offloaded_if
from app.api.payloads import (
    PackageField,
    Payload,
    RenderedBody,
    csv_docs,
    example_config,
    without_default,
)
from app.api.queries import TableQuery, check_digits
from app.api.statistics import Statistics
from app.db.repositories.downloads_repository import (
    SeriesRange,
    SeriesResult,
)
from app.domain.choice import Choice
from app.domain.days import Day
from app.domain.downloads import Publication, Series, ServedRanges, Window, stored_days
from app.domain.events import Event, EventKind
from app.domain.months import first_month_since, month_of
from app.domain.series import (
    Interval,
    complete_periods,
    fill_with_zero,
    rolling_means,
    sum_by,
)
from app.errors import ArgumentError, InvalidArgumentsError

MAX_ITEMS = 50_000
"""Maximum number of items in a response. With the default `RETENTION_DAYS`, no endpoint exceeds it
without arguments.
"""

MAX_CATEGORIES = 250
"""Maximum number of categories in a series, unless all are requested: installers can report a
thousand Python versions. The categories with the most downloads are shown. The others count as
`other`, or as `null` if the breakdown has no `other`.
"""


class Fill(Choice):
    ZERO = "zero"


class RangeQuery(TableQuery):
    """Arguments that select a range of days."""

    unbounded_arguments: ClassVar = frozenset({"start_date", "end_date"})

    start_date: Day | None = Field(
        None, description="First day (UTC). By default the first day that is served."
    )
    end_date: Day | None = Field(
        None, description="Last day (UTC), included. By default the latest published day."
    )

    @field_validator("end_date")
    @classmethod
    def _check_order(cls, end: date | None, info: ValidationInfo) -> date | None:
        start = info.data.get("start_date")
        if start and end and end < start:
            raise ValueError(f"should not be before start_date, which is {start}")
        return end

    def canonical(self, served: ServedRanges) -> Self:
        """Clamp the range to the window. All ranges outside it on one side become equal."""
        window, start, end = self.window(served), self.start_date, self.end_date
        if start is None and end is None:
            return self
        if start is not None:
            after = window.last + timedelta(days=1)
            start = min(start, after) if start > window.first else None
        if end is not None:
            before = window.first - timedelta(days=1)
            end = max(end, before) if end < window.last else None
        return self.model_copy(update={"start_date": start, "end_date": end})

    def window(self, served: ServedRanges) -> Window:
        """Return the range that the response covers without `start_date` and `end_date`."""
        return served.days

    def days(self, served: ServedRanges) -> Window:
        """Return the requested days."""
        return self.window(served).within(self.start_date, self.end_date)

    def range_in(self, publication: Publication, packages: Iterable[str] = ()) -> SeriesRange:
        """Return the days and months whose downloads the response depends on."""
        del packages
        return SeriesRange(self.days(publication.served), publication.window.first)


class SeriesQuery(RangeQuery):
    """Arguments of every series."""

    fill: Fill | None = Field(
        None,
        description="`zero` adds an item of 0 for each published day without a download, to each "
        "category with downloads in the range.",
    )
    interval: Interval = Field(
        Interval.DAY,
        description="Period of each item. An ISO week is dated by its Monday, and a calendar month "
        "by its first day. A week or month is omitted if one of its days is outside the range or "
        "not published. Months reach back to the first stored month, beyond the days served.",
    )
    rolling: Annotated[int, Field(ge=2, le=90), BeforeValidator(check_digits)] | None = Field(
        None,
        description="Number of days of a rolling mean. Each item is then the rounded mean of its "
        "day and the days before it, over published days only. A day without downloads counts as "
        "0. An item is omitted if fewer than half of these days are published. Not allowed with "
        "`interval=week` or `month`.",
        examples=[7],
    )

    @field_validator("rolling")
    @classmethod
    def _check_interval(cls, rolling: int | None, info: ValidationInfo) -> int | None:
        if rolling and info.data.get("interval", Interval.DAY) is not Interval.DAY:
            raise ValueError("can only be combined with interval=day")
        return rolling

    def window(self, served: ServedRanges) -> Window:
        return served.months if self.interval is Interval.MONTH else served.days

    def canonical(self, served: ServedRanges) -> Self:
        """Clamp the range to the window. Ranges with the same whole months become equal."""
        clamped = super().canonical(served)
        if self.interval is not Interval.MONTH:
            return clamped
        start, end = clamped.start_date, clamped.end_date
        if start is not None:
            start = first_month_since(start)
        if end is not None:
            end = month_of(end + timedelta(days=1)) - timedelta(days=1)
        return clamped.model_copy(update={"start_date": start, "end_date": end})

    def range_in(self, publication: Publication, packages: Iterable[str] = ()) -> SeriesRange:
        """Add complete stored months, or the stored days before the range that a mean covers."""
        days, history = self.days(publication.served), publication.history_of(packages)
        if self.interval is Interval.MONTH:
            return SeriesRange(days, history.days[0], history.complete_months(*days))
        first, last = days
        if self.rolling and first <= last:
            first = max(
                first - timedelta(days=self.rolling - 1), stored_days(publication.window).first
            )
        return SeriesRange(Window(first, last), publication.window.first)

    @property
    def needs_published_days(self) -> bool:
        """True if the response depends on published days without downloads."""
        return bool(self.fill or self.rolling) or self.interval is not Interval.DAY

    def events(self, statistics: Statistics) -> list[Event] | None:
        """Return the changes of the definition on the days that means cover, or None if the request
        is not for means.
        """
        if not self.rolling:
            return None
        within = statistics.events.within(*self.range_in(statistics.publication).days)
        return [event for event in within if event.kind is EventKind.DEFINITION]

    def shape(self, found: SeriesResult, served: ServedRanges) -> Series:
        """Sum months, fill, and sum weeks or average. Raises `InvalidArgumentsError`."""
        series, dates, months = found
        if self.interval is Interval.MONTH:
            # Sum before zeros are added, because there may be years of days.
            dates = sorted({*complete_periods(Interval.MONTH, dates), *months})
            summed = sum_by(Interval.MONTH, series, dates)
            series = {one: summed.get(one, []) for one in series} if self.fill else summed
        first = self.days(served).first
        items = sum(map(len, series.values()))
        if self.fill or self.rolling:
            items = len(series) * sum(day >= first for day in dates)
        check_items(items, "fill" if self.fill else "start_date")
        if self.fill:
            series = fill_with_zero(series, dates)
        if self.rolling:
            return rolling_means(series, dates, self.rolling, first)
        if self.interval is Interval.WEEK:
            return sum_by(Interval.WEEK, series, complete_periods(Interval.WEEK, dates))
        return series


def check_items(count: int, parameter: str, limit: int | None = None) -> None:
    """Raise `InvalidArgumentsError` if there would be more than `limit` items, which by default is
    the maximum of a response.
    """
    limit = limit or MAX_ITEMS
    if count > limit:
        message = f"would make {count:,} items, more than the maximum of {limit:,}: "
        message += "request one category, or fewer days or packages"
        raise InvalidArgumentsError([ArgumentError(parameter, message)])


def only(series: Series, category: str | None) -> Series:
    """Return one category, or all if it is None."""
    if category is None:
        return series
    return {category: series[category]} if category in series else {}


class DailyDownloads(BaseModel):
    """Downloads of one category on one day, or with `interval`, in one week or month, or with
    `rolling`, their mean. Without `fill`, a day without downloads has no item.
    """

    category: str = Field(description="A category of the breakdown. `null` if it is unknown.")
    date: dt.date = Field(description="UTC day, or the first day of a week or month.")
    downloads: int = Field(description="Number of downloads.", ge=0)


class SeriesPayload(Payload):
    data: list[DailyDownloads] = Field(
        description="Ordered by category, as text, and then by date. Empty if the package exists "
        "and no download matches the arguments."
    )
    events: list[Event] = Field(
        [],
        description="Present only with `rolling`: events of the kind `definition` on the days that "
        "the means cover, newest first. Days before and after such an event are not comparable.",
        json_schema_extra=without_default,
    )
    package: PackageField


ITEM_COLUMNS = ("category", "date", "downloads")


def rows_of(series: Series) -> Iterator[tuple[str, date, int]]:
    """Return the items of a series, ordered by category and then by date."""
    for category in sorted(series):
        for day, downloads in series[category]:
            yield category, day, downloads


def payload(
    payload_type: str, package: str, series: Series, events: list[Event] | None = None
) -> dict[str, object]:
    """Return the payload of one package's series, with events unless they are None."""
    data = [
        {"category": category, "date": day, "downloads": downloads}
        for category, day, downloads in rows_of(series)
    ]
    reported = {} if events is None else {"events": [one.model_dump(mode="json") for one in events]}
    return {"data": data, **reported, "package": package, "type": payload_type}


def series_example(payload_type: str, *categories: str) -> ConfigDict:
    days = [(date(2026, 11, 19), 1520331), (date(2026, 11, 20), 1498027)]
    return example_config(payload(payload_type, "requests", dict.fromkeys(categories, days)))


CSV_DOCS = csv_docs("category,date,downloads\nlinux,2026-11-20,1498027\n")


async def render(
    query: SeriesQuery,
    payload_type: str,
    package: str,
    found: SeriesResult,
    statistics: Statistics,
) -> RenderedBody:
    """Render the categories as JSON or CSV, in a thread if there are many items.

    Raises `InvalidArgumentsError`.
    """

    def shape_and_render() -> RenderedBody:
        series = query.shape(found, statistics.publication.served)
        return query.render_table(
            lambda: orjson.dumps(payload(payload_type, package, series, query.events(statistics))),
            ITEM_COLUMNS,
            rows_of(series),
            is_cacheable=bool(series),
        )

    return await offloaded_if(is_large(query, found), shape_and_render)


def is_large(query: SeriesQuery, found: SeriesResult) -> bool:
    """Return True if it takes long to shape and render a series."""
    items = len(found.series) * len(found.published_days) if query.fill or query.rolling else 0
    return max(items, sum(map(len, found.series.values()))) >= LARGE_ITEMS
