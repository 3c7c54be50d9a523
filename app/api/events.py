"""Known breaks in the figures, for readers who draw charts."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from app.api.payloads import example_config
from app.api.problem_details import status_docs
from app.api.state import InjectedState
from app.domain.events import Event, KnownEvents

router = APIRouter(prefix="/api", tags=["status"], responses=status_docs(429, 500))


class Events(BaseModel):
    """Known breaks in PyPI's figures."""

    model_config = example_config(
        {
            "data": [event.model_dump(mode="json") for event in KnownEvents().newest_first],
            "type": "events",
        }
    )

    data: list[Event] = Field(description="Newest first.")
    type: Literal["events"]


@router.get("/events", operation_id="get_events", summary="Known breaks in the figures")
async def events(state: InjectedState, response: Response) -> Events:
    """Days on which PyPI changed what it counts as a download, and days whose downloads it lost.
    The list includes days that are not served. Mark them in charts.
    """
    # Events change with a release or a restart.
    response.headers["Cache-Control"] = "public, max-age=3600"
    return Events(data=state.events.newest_first, type="events")
