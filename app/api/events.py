"""Known breaks in the figures, for whoever draws a chart."""

from typing import Literal

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.api.answering import route_of
from app.api.dependencies import Repositories, UnambiguousRoute, repositories_of
from app.api.problem_details import documented
from app.api.questions import Endpoint, Question, Rendered
from app.downloads import Publication
from app.events import Event, KnownEvents

router = APIRouter(
    prefix="/api", tags=["status"], route_class=UnambiguousRoute, responses=documented(429, 500)
)


class Events(BaseModel):
    """Known breaks in PyPI's figures."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": [event.model_dump(mode="json") for event in KnownEvents().newest_first],
                    "type": "events",
                }
            ]
        }
    )

    data: list[Event] = Field(description="Newest first.")
    type: Literal["events"]


@router.get(
    "/events",
    operation_id="get_events",
    summary="Known breaks in the figures",
    response_model=Events,
)
async def events(request: Request) -> Response:
    """Days from which on PyPI counts something else as a download, and days on which it lost
    downloads, whether or not these days are served. Show them in charts.
    """
    # Reached only while nothing is published: events are known all the same.
    return Response(_body(repositories_of(request).events), media_type="application/json")


async def _answer(repositories: Repositories, _: Question, __: Publication) -> Rendered:
    return Rendered(_body(repositories.events))


def _body(known: KnownEvents) -> bytes:
    return orjson.dumps({"data": dumped(known.newest_first), "type": "events"})


def dumped(some: list[Event]) -> list[dict[str, object]]:
    """Events as they are rendered in an answer."""
    return [event.model_dump() for event in some]


ENDPOINTS = (Endpoint("/api/events", route_of(router, "events"), _answer),)
