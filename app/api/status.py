"""What the service holds, and whether it is up."""

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from app.api.headers import DATA_AS_OF
from app.api.problem_details import documented
from app.api.schemas import (
    Health,
    HeldDay,
    Index,
    LastRun,
    Partition,
    Readiness,
    RecentDay,
    Status,
    SuspectDay,
)
from app.api.state import InjectedState
from app.db.repositories.runs_repository import latest_runs
from app.domain.downloads import RECENT_STATUS_DAYS, DayFigures, gaps
from app.domain.events import CountedFiles
from app.metrics import exposition
from app.settings import IngestSource

router = APIRouter(tags=["status"])


@router.get(
    "/api/status",
    operation_id="get_status",
    summary="Which days are published",
    responses=documented(429, 500, 503),
)
async def status(state: InjectedState, response: Response) -> Status:
    """Which days are published, where they came from, and which are missing."""
    async with state.statistics.snapshot() as downloads:
        publication = await downloads.publication()
        days = await downloads.published_days()
        held = await downloads.held_days()
    if publication:
        response.headers[DATA_AS_OF] = str(publication.latest_day)
    runs = await latest_runs(state.statistics.pool, 1)
    sources = sorted({day.source for day in days})
    first, latest = (days[0], days[-1]) if days else (None, None)
    return Status(
        sample=IngestSource.SAMPLE in sources,
        sources=sources,
        counted_files=sorted({CountedFiles(day.counted_files) for day in days}),
        first_day=first and first.day,
        latest_day=latest and latest.day,
        published_at=latest and latest.published_at,
        days=len(days),
        gaps=gaps(days),
        packages=latest.packages if latest else 0,
        downloads=latest.downloads if latest else 0,
        recent_days=[
            RecentDay(
                day=day.day,
                packages=day.packages,
                downloads=day.downloads,
                published_at=day.published_at,
            )
            for day in days[: -RECENT_STATUS_DAYS - 1 : -1]
        ],
        held=[
            HeldDay(
                day=day.day,
                reason=day.reason,
                packages=day.packages,
                downloads=day.downloads,
                held_since=day.held_since,
                read_at=day.read_at,
                next_reading=state.next_reading(day),
                partition=_partition(day),
            )
            for day in held
        ],
        suspect=[
            SuspectDay(
                day=day.day,
                reason=day.suspect_reason,
                packages=day.packages,
                downloads=day.downloads,
                published_at=day.published_at,
                checked_at=day.checked_at,
                next_check=state.next_check(day),
                partition=_partition(day),
            )
            for day in days
            if day.suspect_reason
        ],
        events=state.events.within(*publication.window) if publication else [],
        last_run=LastRun(
            day=runs[0].day,
            started_at=runs[0].started_at,
            ended_at=runs[0].ended_at,
            outcome=runs[0].outcome,
        )
        if runs
        else None,
        next_run=state.next_run(),
    )


def _partition(day: DayFigures) -> Partition | None:
    if day.partition is None:
        return None
    return Partition(rows=day.partition.rows, modified_at=day.partition.modified_at)


@router.get(
    "/", operation_id="get_index", summary="Where to go from here", responses=documented(429, 500)
)
async def index(request: Request, state: InjectedState) -> Index:
    """Where to go from here."""
    publication = state.publication()
    return Index(
        name=request.app.title,
        version=request.app.version,
        docs="/docs",
        openapi=request.app.openapi_url,
        status="/api/status",
        data_as_of=publication and publication.latest_day,
    )


@router.get("/health", operation_id="get_health", summary="Whether the process is up")
async def health() -> Health:
    """Answers as long as the process is up."""
    return Health(status="ok")


@router.get(
    "/ready",
    operation_id="get_readiness",
    summary="Whether requests can be answered",
    responses=documented(500, 503),
)
async def ready(state: InjectedState) -> Readiness:
    """Whether requests can be answered: for whoever decides where to send them."""
    await state.readiness.check()
    return Readiness(status="ready")


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Figures for Prometheus",
    response_class=PlainTextResponse,
)
async def metrics(state: InjectedState) -> Response:
    """Figures of the service itself, for Prometheus."""
    return Response(exposition(state.published_data()), media_type=CONTENT_TYPE_LATEST)
