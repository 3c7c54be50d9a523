"""The objects that FastAPI's routes use. They are injected into the routes as one typed value."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from app.api.dump_list_cache import DumpListCache
from app.api.readiness import ReadinessCheck
from app.api.statistics import StatisticsReader
from app.domain.downloads import HeldDay, Publication, PublishedDay
from app.domain.events import KnownEvents
from app.metrics import PublicationMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The objects of one service. `create_app` builds them, and they never change."""

    statistics: StatisticsReader
    readiness: ReadinessCheck
    events: KnownEvents
    dumps: DumpListCache
    publication: Callable[[], Publication | None]
    publication_metrics: Callable[[], PublicationMetrics]
    next_run: Callable[[], datetime | None]
    """Function that returns the next run of the ingest job, or None if it is not scheduled."""

    next_reading: Callable[[HeldDay], datetime]
    next_check: Callable[[PublishedDay], datetime]


class API(FastAPI):
    """FastAPI with the service's state."""

    def __init__(self, service_state: State, **options: Any) -> None:
        super().__init__(**options)
        self.service_state = service_state


async def _state(request: Request) -> State:
    assert isinstance(request.app, API)
    return request.app.service_state


InjectedState = Annotated[State, Depends(_state)]
"""Annotation of a route's parameter that receives the state."""
