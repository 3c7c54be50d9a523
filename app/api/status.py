"""The published days, and the state of the service."""

import datetime as dt
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import PlainTextResponse, Response

from app.api.docs_page import OPENAPI_PATH
from app.api.headers import DATA_AS_OF, path_prefix
from app.api.problem_details import status_docs
from app.api.state import InjectedState
from app.db.repositories.runs_repository import latest_runs
from app.domain.downloads import RECENT_STATUS_DAYS, DayFigures, RunOutcome, gaps
from app.domain.events import CountedFiles, Event
from app.metrics import exposition
from app.settings import IngestSource

router = APIRouter(tags=["status"])


class FromAttributes(BaseModel):
    """Base of models that can be created from objects with attributes of the same names."""

    model_config = ConfigDict(from_attributes=True)


class RecentDay(FromAttributes):
    """A published day."""

    day: dt.date
    packages: int = Field(description="Packages downloaded that day.")
    downloads: int = Field(description="Downloads, known mirrors excluded.")
    published_at: dt.datetime


class Partition(FromAttributes):
    """The source's partition of a day, as it was before the day was read."""

    rows: int
    modified_at: dt.datetime


CheckedAt = Annotated[dt.datetime, Field(description="When the day was last read or checked.")]
NextCheck = Annotated[
    dt.datetime,
    Field(description="When the day is checked again, and read if its partition has changed."),
]


class DoubtfulDay(FromAttributes):
    """A day whose figures deviate from those of its neighbours."""

    day: dt.date
    reason: str = Field(description="How the figures deviate from plausible ones.")
    packages: int = Field(description="Packages downloaded on that day, as read from the source.")
    downloads: int = Field(description="Downloads of that day, known mirrors excluded.")
    partition: Partition | None = Field(
        description="Null if the source has no partitions, or if this one could not be read."
    )


class HeldDay(DoubtfulDay):
    """A day that was read but is not published, because its figures are not plausible."""

    held_since: dt.datetime
    read_at: CheckedAt
    next_reading: NextCheck


class SuspectDay(DoubtfulDay):
    """A published day whose figures deviate from those of its neighbours."""

    published_at: dt.datetime
    checked_at: CheckedAt
    next_check: NextCheck


class LastRun(FromAttributes):
    """The last ingest of a day."""

    day: dt.date
    started_at: dt.datetime
    ended_at: dt.datetime | None = Field(
        description="Null while the run has not ended, and if its process was killed."
    )
    outcome: RunOutcome


class Status(BaseModel):
    """The published, held and missing days."""

    sample: bool = Field(description="True if the figures are made up: sample data.")
    sources: list[str] = Field(description="Sources of the days.", examples=[["bigquery"]])
    followed: list[str] | None = Field(
        description="The only packages that this instance has figures for. Null if it has those of "
        "all packages."
    )
    counted_files: list[CountedFiles] = Field(
        description="Files whose downloads were counted: `all` that PyPI logged, or `artifacts`. "
        "If both are listed, the days until 24 August 2026 are not all comparable.",
        examples=[["all"]],
    )
    first_day: dt.date | None = Field(description="First published day. Null if there is none.")
    latest_day: dt.date | None = Field(description="Latest published day. Null if there is none.")
    published_at: dt.datetime | None = Field(description="When the latest day was published.")
    days: int = Field(description="Number of published days.")
    first_month: str | None = Field(
        description="First month whose monthly downloads are stored. Null if there is none.",
        examples=["2018-01"],
    )
    months: int = Field(description="Number of stored months.")
    gaps: list[dt.date] = Field(description="Unpublished days between the first and the latest.")
    packages: int = Field(description="Packages downloaded on the latest day.")
    downloads: int = Field(description="Downloads of that day, known mirrors excluded.")
    recent_days: list[RecentDay] = Field(
        description=f"The last {RECENT_STATUS_DAYS} published days, latest first."
    )
    held: list[HeldDay] = Field(
        description="Days whose figures are not plausible, oldest first. They are not served, and "
        "are read again."
    )
    suspect: list[SuspectDay] = Field(
        description="Published days whose figures deviate from those of their neighbours, oldest "
        "first. Such a day may be incomplete, or in the first weeks of a new level of downloads. "
        "It is checked again."
    )
    events: list[Event] = Field(description="Known breaks in these days' figures, newest first.")
    last_run: LastRun | None = Field(
        description="The last ingest of a day. Null before the first one."
    )
    next_run: dt.datetime | None = Field(
        description="When the job that ingests days runs next. Null if it is not scheduled."
    )


class Index(BaseModel):
    """The addresses to start from."""

    name: str
    version: str
    docs: str = Field(description="Path of the page that documents and tries the endpoints.")
    openapi: str = Field(description="Path of the OpenAPI document.")
    status: str = Field(description="Path of the list of published days.")
    data_as_of: dt.date | None = Field(description="Latest published day. Null if there is none.")
    sample: bool = Field(description="True if the figures are made up: sample data.")


class Readiness(BaseModel):
    """The database can be reached and is migrated."""

    status: Literal["ready"]


class Health(BaseModel):
    """The process is up."""

    status: Literal["ok"]


def _values(day: DayFigures) -> dict[str, object]:
    return asdict(day) | {"partition": day.partition}


@router.get(
    "/api/status",
    operation_id="get_status",
    summary="Published, held and missing days",
    responses=status_docs(429, 500, 503),
)
async def status(state: InjectedState, response: Response) -> Status:
    """The published days, their sources, and the days that are held or missing."""
    async with state.statistics.snapshot() as downloads:
        publication = await downloads.publication()
        days = await downloads.published_days()
        held = await downloads.held_days()
    if publication:
        response.headers[DATA_AS_OF] = str(publication.latest_day)
    months = publication.months if publication else ()
    runs = await latest_runs(state.statistics.pool, 1, only_days=True)
    sources = sorted({day.source for day in days})
    first, latest = (days[0], days[-1]) if days else (None, None)
    return Status(
        sample=IngestSource.SAMPLE in sources,
        sources=sources,
        followed=publication and publication.followed and list(publication.followed),
        counted_files=sorted({CountedFiles(day.counted_files) for day in days}),
        first_day=first and first.day,
        latest_day=latest and latest.day,
        published_at=latest and latest.published_at,
        days=len(days),
        first_month=str(months[0].period) if months else None,
        months=len(months),
        gaps=gaps(days),
        packages=latest.packages if latest else 0,
        downloads=latest.downloads if latest else 0,
        recent_days=list(map(RecentDay.model_validate, days[: -RECENT_STATUS_DAYS - 1 : -1])),
        held=[
            HeldDay.model_validate(_values(day) | {"next_reading": state.next_reading(day)})
            for day in held
        ],
        suspect=[
            SuspectDay.model_validate(
                _values(day) | {"reason": day.suspect_reason, "next_check": state.next_check(day)}
            )
            for day in days
            if day.suspect_reason
        ],
        events=state.events.within(*publication.window) if publication else [],
        last_run=LastRun.model_validate(runs[0]) if runs else None,
        next_run=state.next_run(),
    )


@router.get(
    "/",
    operation_id="get_index",
    summary="Addresses to start from",
    responses=status_docs(429, 500),
)
async def index(request: Request, state: InjectedState) -> Index:
    """The addresses to start from."""
    publication, prefix = state.publication(), path_prefix.get()
    return Index(
        name=request.app.title,
        version=request.app.version,
        docs=f"{prefix}/docs",
        openapi=f"{prefix}{OPENAPI_PATH}",
        status=f"{prefix}/api/status",
        data_as_of=publication and publication.latest_day,
        sample=bool(publication and publication.is_sample),
    )


@router.get("/health", operation_id="get_health", summary="Health of the process")
async def health() -> Health:
    """Returns 200 while the process is running."""
    return Health(status="ok")


@router.get(
    "/ready",
    operation_id="get_readiness",
    summary="Readiness to answer requests",
    responses=status_docs(500, 503),
)
async def ready(state: InjectedState) -> Readiness:
    """Returns 200 if the service can answer requests, else 503. It is meant for load balancers."""
    await state.readiness.check()
    return Readiness(status="ready")


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Figures for Prometheus",
    response_class=PlainTextResponse,
)
async def metrics(request: Request, state: InjectedState) -> Response:
    """Metrics of the service itself. `Accept` selects the format of Prometheus or OpenMetrics."""
    accept = ",".join(request.headers.getlist("accept"))
    content, media_type = exposition(state.publication_metrics(), accept)
    return Response(content, headers={"Vary": "Accept"}, media_type=media_type)
