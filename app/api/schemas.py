"""The payloads of the API, for its documentation and for the clients generated from it.

What is served is built to these shapes and not validated against them again: the tests do that.
"""

import datetime as dt
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema

from app.breakdowns import REQUIRED_COLUMNS
from app.downloads import RECENT_STATUS_DAYS, RunOutcome
from app.dumps import listing
from app.events import CountedFiles, Event

PackageField = Annotated[
    str, Field(description="Normalised name (PEP 503), or `__all__`.", examples=["requests"])
]


class Period(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Fill(StrEnum):
    ZERO = "zero"


class SeriesFormat(StrEnum):
    JSON = "json"
    CSV = "csv"


class Mirrors(StrEnum):
    TRUE = "true"
    FALSE = "false"


class OperatingSystem(StrEnum):
    WINDOWS = "windows"
    LINUX = "linux"
    DARWIN = "darwin"
    OTHER = "other"
    NULL = "null"


class ContinuousIntegration(StrEnum):
    TRUE = "true"
    FALSE = "false"
    NULL = "null"


def _optional(schema: JsonDict) -> None:
    # Not required, yet never null: the key is there with a number, or it is not there.
    schema.pop("default", None)


class RecentCounts(BaseModel):
    """Downloads up to and including the latest published day, known mirrors excluded. Only the one
    asked for when `period` is given.
    """

    last_day: int | SkipJsonSchema[None] = Field(
        default=None, description="On that day.", ge=0, json_schema_extra=_optional
    )
    last_month: int | SkipJsonSchema[None] = Field(
        default=None, description="In 30 days.", ge=0, json_schema_extra=_optional
    )
    last_week: int | SkipJsonSchema[None] = Field(
        default=None, description="In 7 days.", ge=0, json_schema_extra=_optional
    )


class DailyDownloads(BaseModel):
    """Downloads of one category on one day, or in one week or month where `interval` asks for
    those. Without `fill`, one without any has no item.
    """

    category: str = Field(description="A category of the breakdown; `null` where it is unknown.")
    date: dt.date = Field(description="UTC day; of a week or month the first.")
    downloads: int = Field(description="Number of downloads.", ge=0)


class RecentDownloads(BaseModel):
    """Downloads of the latest day, week and month."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": {
                        "last_day": 42817003,
                        "last_month": 1181283420,
                        "last_week": 279880123,
                    },
                    "package": "requests",
                    "type": "recent_downloads",
                }
            ]
        }
    )

    data: RecentCounts
    package: PackageField
    type: Literal["recent_downloads"]


def _series_example(payload_type: str, *categories: str) -> ConfigDict:
    return ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": [
                        {"category": category, "date": day, "downloads": downloads}
                        for category in categories
                        for day, downloads in (("2026-11-19", 1520331), ("2026-11-20", 1498027))
                    ],
                    "package": "requests",
                    "type": payload_type,
                }
            ]
        }
    )


class Series(BaseModel):
    data: list[DailyDownloads] = Field(
        description="Ordered by category, as text, and then by date. Empty when nothing of a known "
        "package matches the filter."
    )
    package: PackageField


class OverallDownloads(Series):
    """Downloads by day, with and without known mirrors."""

    model_config = _series_example("overall_downloads", "with_mirrors", "without_mirrors")

    type: Literal["overall_downloads"]


class OfMany(BaseModel):
    missing: list[str] = Field(
        description="Names of packages without downloads in the days held, normalised, in order.",
        examples=[["reqeusts"]],
    )


def _example_of_many(payload_type: str, of_one: type[BaseModel]) -> ConfigDict:
    extra = of_one.model_config["json_schema_extra"]
    assert isinstance(extra, dict)
    examples = extra["examples"]
    return ConfigDict(
        json_schema_extra={
            "examples": [{"data": examples, "missing": ["reqeusts"], "type": payload_type}]
        }
    )


class RecentDownloadsOfMany(OfMany):
    """Downloads of the latest day, week and month of several packages."""

    model_config = _example_of_many("recent_downloads_of_many", RecentDownloads)

    data: list[RecentDownloads] = Field(description="Ordered by package.")
    type: Literal["recent_downloads_of_many"]


class OverallDownloadsOfMany(OfMany):
    """Downloads by day, with and without known mirrors, of several packages."""

    model_config = _example_of_many("overall_downloads_of_many", OverallDownloads)

    data: list[OverallDownloads] = Field(description="Ordered by package.")
    type: Literal["overall_downloads_of_many"]


class PythonMajorDownloads(Series):
    """Downloads by day and major Python version, known mirrors excluded."""

    model_config = _series_example("python_major_downloads", "2", "3", "null")

    type: Literal["python_major_downloads"]


class PythonMinorDownloads(Series):
    """Downloads by day and minor Python version, known mirrors excluded."""

    model_config = _series_example("python_minor_downloads", "3.13", "3.9", "null")

    type: Literal["python_minor_downloads"]


class SystemDownloads(Series):
    """Downloads by day and operating system, known mirrors excluded."""

    model_config = _series_example("system_downloads", "darwin", "linux", "windows")

    type: Literal["system_downloads"]


class InstallerDownloads(Series):
    """Downloads by day and installer, known mirrors excluded."""

    model_config = _series_example("installer_downloads", "other", "pip", "uv")

    type: Literal["installer_downloads"]


class CiDownloads(Series):
    """Downloads by day and whether continuous integration made them, known mirrors excluded."""

    model_config = _series_example("ci_downloads", "null", "true")

    type: Literal["ci_downloads"]


class CountryDownloads(Series):
    """Downloads by day and country, known mirrors excluded."""

    model_config = _series_example("country_downloads", "DE", "US", "null")

    type: Literal["country_downloads"]


class VersionDownloads(Series):
    """Downloads by day and release of the package, known mirrors excluded."""

    model_config = _series_example("version_downloads", "2.31.0", "2.32.3", "other")

    type: Literal["version_downloads"]


class ImplementationDownloads(Series):
    """Downloads by day and implementation of Python, known mirrors excluded."""

    model_config = _series_example("implementation_downloads", "cpython", "null", "pypy")

    type: Literal["implementation_downloads"]


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
        json_schema_extra=_optional,
    )
