"""The payloads of the API, for its documentation and for the clients generated from it.

What is served is built to these shapes and not validated against them again: the tests do that.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema

from app.domain.breakdowns import REQUIRED_COLUMNS
from app.domain.downloads import RECENT_STATUS_DAYS, RunOutcome
from app.domain.events import CountedFiles, Event
from app.dumps import listing

PackageField = Annotated[
    str, Field(description="Normalised name (PEP 503), or `__all__`.", examples=["requests"])
]


def not_null(schema: JsonDict) -> None:
    """Document a property that may be missing and is never null."""
    schema.pop("default", None)


def example(payload: Mapping[str, object]) -> ConfigDict:
    """Return the configuration of a payload model with this example."""
    return ConfigDict(json_schema_extra=cast("JsonDict", {"examples": [payload]}))


class DailyDownloads(BaseModel):
    """Downloads of one category on one day, or in one week or month where `interval` asks for
    those. Without `fill`, one without any has no item.
    """

    category: str = Field(description="A category of the breakdown; `null` where it is unknown.")
    date: dt.date = Field(description="UTC day; of a week or month the first.")
    downloads: int = Field(description="Number of downloads.", ge=0)


class RecentDay(BaseModel):
    """A published day."""

    day: dt.date
    packages: int = Field(description="Packages downloaded that day.")
    downloads: int = Field(description="Downloads, known mirrors excluded.")
    published_at: dt.datetime


class Partition(BaseModel):
    """The source's partition of a day, as it was before the day was read."""

    rows: int
    modified_at: dt.datetime


class HeldDay(BaseModel):
    """A day that was read and is not published, since it does not look plausible."""

    day: dt.date
    reason: str = Field(description="What speaks against it.")
    packages: int = Field(description="Packages that the source gave.")
    downloads: int = Field(description="Downloads that it gave, known mirrors excluded.")
    held_since: dt.datetime
    read_at: dt.datetime = Field(description="When it was last read, or checked and unchanged.")
    next_reading: dt.datetime = Field(
        description="When it is checked again, and read if its partition has changed."
    )
    partition: Partition | None = Field(description="Null if the source has no partitions.")


class SuspectDay(BaseModel):
    """A published day whose figures deviate from those of its neighbours."""

    day: dt.date
    reason: str = Field(description="How it deviates from its neighbours as they are now.")
    packages: int = Field(description="Packages downloaded on that day.")
    downloads: int = Field(description="Downloads of that day, known mirrors excluded.")
    published_at: dt.datetime
    checked_at: dt.datetime = Field(description="When it was last read, or checked and unchanged.")
    next_check: dt.datetime = Field(
        description="When it is checked again, and read if its partition has changed."
    )
    partition: Partition | None = Field(description="Null if the source has no partitions.")


class LastRun(BaseModel):
    """The last ingest of a day."""

    day: dt.date
    started_at: dt.datetime
    ended_at: dt.datetime | None = Field(
        description="Null while it runs, and when its process was ended."
    )
    outcome: RunOutcome


class Status(BaseModel):
    """What is published, within the days served."""

    sample: bool = Field(description="Whether the figures are made up, to try the service.")
    sources: list[str] = Field(description="Where the days came from.", examples=[["bigquery"]])
    counted_files: list[CountedFiles] = Field(
        description="Which files' downloads were counted: `all` that PyPI has logged, or "
        "`artifacts`. With both, days until 24 August 2026 are not all comparable.",
        examples=[["all"]],
    )
    first_day: dt.date | None = Field(description="First published day; null when none is.")
    latest_day: dt.date | None = Field(description="Latest published day; null when none is.")
    published_at: dt.datetime | None = Field(
        description="When the latest day was published; null when none is."
    )
    days: int = Field(description="Number of published days.")
    gaps: list[dt.date] = Field(
        description="Days between the first and the latest that are not published."
    )
    packages: int = Field(description="Packages downloaded on the latest day.")
    downloads: int = Field(description="Downloads of that day, known mirrors excluded.")
    recent_days: list[RecentDay] = Field(
        description=f"The last {RECENT_STATUS_DAYS} published days, latest first."
    )
    held: list[HeldDay] = Field(
        description="Days that were read and do not look plausible, oldest first. They are not "
        "served, and are read again."
    )
    suspect: list[SuspectDay] = Field(
        description="Published days that deviate from their neighbours, oldest first: incomplete "
        "days, and the first weeks of a new level. They are checked again."
    )
    events: list[Event] = Field(
        description="Known breaks in the figures of the days served, newest first."
    )
    last_run: LastRun | None = Field(description="The last ingest; null before the first.")
    next_run: dt.datetime | None = Field(
        description="When this process next looks for what is missing; null when it only serves."
    )


class Dumps(listing.Dumps):
    """The published days that there are files of, latest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": [
                        {
                            "day": "2026-11-20",
                            "name": "downloads-2026-11-20-5d41402abc4b.parquet",
                            "url": "dumps/downloads-2026-11-20-5d41402abc4b.parquet",
                            "format": "parquet",
                            "bytes": 10240113,
                            "sha256": "9f86d081884c7d659a2feaa0c55ad015"
                            "a3bf4f1b2b0b822cd15d6c15b0f00a08",
                            "source": "bigquery",
                            "packages": 712034,
                            "downloads": 3120554871,
                            "downloads_with_mirrors": 3410977120,
                            "digest": "5d41402abc4b2a76b9719d911017c592"
                            "ae1e2b7a0c8f6b0e9d3c5f4a7b6e8d90",
                            "columns": [*listing.TOTAL_COLUMNS, *REQUIRED_COLUMNS],
                        }
                    ],
                    "type": "dumps",
                }
            ]
        }
    )


class Index(BaseModel):
    """What answers here."""

    name: str
    version: str
    docs: str = Field(description="Path of the page that documents and tries the endpoints.")
    openapi: str = Field(description="Path of the OpenAPI document.")
    status: str = Field(description="Path that tells which days are published.")
    data_as_of: dt.date | None = Field(
        description="Latest published day, UTC; null when none is, or not known yet."
    )


class Readiness(BaseModel):
    """The database can be reached and has what is needed."""

    status: Literal["ready"]


class Health(BaseModel):
    """The process is up."""

    status: Literal["ok"]


class Fault(BaseModel):
    """An argument with a value that is not right."""

    parameter: str = Field(description="Its name.", examples=["period"])
    message: str = Field(
        description="What would be right.", examples=["Input should be 'day', 'week' or 'month'"]
    )


class Problem(BaseModel):
    """Why there is no answer (RFC 9457)."""

    type: str = Field(description="What kind of problem.", examples=["about:blank"])
    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(description="The status of the answer.", examples=[404])
    detail: str = Field(description="What happened.", examples=["There is no package 'reqeusts'."])
    request_id: str = Field(
        description="Of this request: also in its `X-Request-ID`, and in the log.",
        examples=["5f0c1f3b9a6e4d72"],
    )
    errors: list[Fault] | SkipJsonSchema[None] = Field(
        default=None,
        description="With status 422: each argument that is wrong.",
        json_schema_extra=not_null,
    )
