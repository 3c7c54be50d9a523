"""The days and months that were published or replaced since a client's last request."""

import datetime as dt
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Literal

from fastapi import Query
from pydantic import AfterValidator, BaseModel, Field

from app.api.endpoints import EndpointRouter
from app.api.payloads import Payload, RenderedBody, example_config
from app.api.queries import EndpointQuery
from app.api.statistics import Statistics
from app.domain.months import MONTH_PATTERN, Month

router = EndpointRouter("/api", "status")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

VERSION_PATTERN = "[0-9]{1,17}"


def version_of(publish: datetime) -> str:
    """Return the version after a publish, which is its time in microseconds."""
    return str((publish - EPOCH) // timedelta(microseconds=1))


def _check_version(version: str) -> str:
    if not re.fullmatch(VERSION_PATTERN, version):
        raise ValueError("should be the next of an earlier response")
    return version


class ChangesQuery(EndpointQuery):
    unbounded_arguments: ClassVar = frozenset({"since"})

    since: Annotated[str, AfterValidator(_check_version)] | None = Field(
        None,
        description="The `next` of an earlier response. By default all days and months are listed.",
        examples=["1795262400000000"],
        json_schema_extra={"pattern": VERSION_PATTERN},
    )


class Change(BaseModel):
    """Figures that were published or replaced."""

    digest: str = Field(description="Hash of the figures. Equal figures have equal digests.")
    published_at: dt.datetime = Field(description="When these figures became visible.")


class ChangedDay(Change):
    day: dt.date = Field(description="UTC day.")


class ChangedMonth(Change):
    month: str = Field(description="Calendar month.", pattern=MONTH_PATTERN)


class ChangedPeriods(BaseModel):
    days: list[ChangedDay] = Field(description="Latest first.")
    months: list[ChangedMonth] = Field(description="Stored months, latest first.")


_PUBLISHED_AT = "2026-11-21T01:04:12.031415Z"


class Changes(Payload):
    """Days and months that were published or replaced."""

    model_config = example_config(
        {
            "data": {
                "days": [
                    {"digest": "5d41402abc4b", "published_at": _PUBLISHED_AT, "day": "2026-11-20"}
                ],
                "months": [
                    {"digest": "9f86d081884c", "published_at": _PUBLISHED_AT, "month": "2026-10"}
                ],
            },
            "first_day": "2026-05-25",
            "next": "1795223052031415",
            "since": "1795136640000000",
            "type": "changes",
        }
    )

    data: ChangedPeriods
    first_day: dt.date = Field(
        description="First day served. Discard earlier days, because removals are not listed."
    )
    next: str = Field(description="The `since` of the next request. Its form may change.")
    since: str | None = Field(
        description="The `since` of the request. Null if everything is listed, because it was "
        "omitted or this database does not know it, for example after a restore."
    )
    type: Literal["changes"]


@router.endpoint(
    "/changes",
    Changes,
    summary="Days and months that have changed",
    operation_id="get_changes",
)
async def changes(query: Annotated[ChangesQuery, Query()], statistics: Statistics) -> RenderedBody:
    """The days served and the stored months that were published or replaced since an earlier
    response, and the `since` of the next request. A mirror can fetch exactly what has changed.
    """
    publication = statistics.publication
    latest = version_of(publication.published_at)
    since = query.since if query.since and int(query.since) <= int(latest) else None
    after = EPOCH + timedelta(microseconds=int(since or 0))
    found = await statistics.downloads.changes(publication.window, after)
    days, months = [], []
    for kind, first, digest, published_at in found:
        if kind == "day":
            days.append(ChangedDay(digest=digest, published_at=published_at, day=first))
        else:
            month = str(Month(first))
            months.append(ChangedMonth(digest=digest, published_at=published_at, month=month))
    payload = Changes(
        data=ChangedPeriods(days=days, months=months),
        first_day=publication.window.first,
        next=latest,
        since=since,
        type="changes",
    )
    # Clients can invent versions. Those that poll have one of the latest publishes.
    return RenderedBody(payload.to_json(), is_cacheable=query.since in (None, latest))
