"""What the service holds, and whether it is up."""

from fastapi import APIRouter

from app.api.dependencies import Repository
from app.api.schemas import Health, Problem, Status
from app.downloads import gaps
from app.settings import IngestSource

router = APIRouter(tags=["status"])


@router.get(
    "/api/status",
    operation_id="get_status",
    responses={
        429: {"model": Problem, "description": "The client made more requests than it may."},
        503: {"model": Problem, "description": "The answer can't be given now."},
    },
)
async def status(repository: Repository) -> Status:
    """Which days are published, where they came from, and which are missing."""
    days = await repository.published_days()
    sources = sorted({day.source for day in days})
    first, latest = (days[0], days[-1]) if days else (None, None)
    return Status(
        sample=IngestSource.SAMPLE in sources,
        sources=sources,
        first_day=first and first.day,
        latest_day=latest and latest.day,
        published_at=latest and latest.published_at,
        days=len(days),
        gaps=gaps(days),
        packages=latest.packages if latest else 0,
        downloads=latest.downloads if latest else 0,
    )


@router.get("/health", operation_id="get_health")
async def health() -> Health:
    """Answers as long as the process is up."""
    return Health(status="ok")
