"""Builds the service from its parts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.types import Lifespan, Receive, Scope, Send
from starlette_compress import CompressMiddleware

from app.api import (
    badges,
    breakdown_series,
    bulk,
    changes,
    docs_page,
    dumps,
    events,
    history,
    overall,
    problem_details,
    python_support,
    rankings,
    recent,
    search,
    status,
    summary,
    totals,
)
from app.api.dump_list_cache import SERVED_URL, DumpListCache
from app.api.endpoints import RENDERING_VERSION, Endpoints
from app.api.openapi import install_document
from app.api.queries import require_json
from app.api.readiness import ReadinessCheck
from app.api.request_guard import RequestGuardMiddleware
from app.api.state import API, State
from app.api.statistics import StatisticsReader
from app.db.pool import ReadPool
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.rankings_repository import RankingsRepository
from app.domain.clock import Clock, utc_now
from app.domain.events import KnownEvents
from app.dumps.stores.folder import DumpFolder
from app.errors import SettingsError
from app.ingest.plan import held_due_at, suspect_due_at
from app.ingest.scheduler import IngestScheduler, run_ingest_job
from app.interpreter import collect_garbage_less_often
from app.logs import LOG_STREAM, configure_logging
from app.metrics import LOG_LINES_DROPPED
from app.serving.connections import Connections, allowed_connections
from app.serving.dispatch import Dispatcher
from app.serving.log_line_limit import LogLineLimit
from app.serving.proxies import TrustedProxies
from app.serving.publication_watch import PublicationWatch
from app.serving.rate_limits import RateLimits
from app.serving.request_log import RequestLog
from app.serving.response_cache import ResponseCache, Tagger
from app.settings import IngestSource, Settings, load_settings

# The documentation lists the endpoints in this order.
_ENDPOINT_MODULES = (
    recent,
    overall,
    breakdown_series,
    totals,
    history,
    python_support,
    summary,
    bulk,
    rankings,
    search,
    badges,
    changes,
)

ENDPOINTS = Endpoints(one for module in _ENDPOINT_MODULES for one in module.router.endpoints)

# Created once, because FastAPI takes long to analyse routes, and tests create many services in one
# process.
_ROUTER = APIRouter(dependencies=[Depends(require_json)])
for _module in (*_ENDPOINT_MODULES, events, dumps, status):
    _ROUTER.include_router(_module.router)

LIFESPAN_CLOSE_SECONDS = 0.6
"""How long the lifespan waits for connections to close."""


@dataclass(frozen=True, slots=True)
class Service:
    """The ASGI application that the server calls.

    The dispatcher gets all HTTP requests, and FastAPI the lifespan. As a middleware of FastAPI, the
    dispatcher would take twice as long for a cache hit.
    """

    api: API
    dispatcher: Dispatcher
    connections: Connections
    state: State

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.dispatcher if scope["type"] == "http" else self.api
        await app(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        return self.api.openapi()

    def running(self) -> AbstractAsyncContextManager[object]:
        """Return a context in which the background work runs. Servers enter it automatically."""
        return self.api.router.lifespan_context(self.api)


def create_app_from_environment() -> Service:
    """Create the application of a server process. `app.cli.serve` has set `DATABASE_URL`."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format, LOG_STREAM)
    LOG_STREAM.count_dropped = LOG_LINES_DROPPED.inc
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL: should be set, or use `pypi-stats serve`")
    app = create_app(settings, settings.database_url.get_secret_value())
    collect_garbage_less_often()
    return app


def create_app(settings: Settings, database_url: str, clock: Clock = utc_now) -> Service:
    """Create the service on a migrated database. It connects when its lifespan begins."""
    pool = ReadPool(database_url)
    known_events = KnownEvents(settings.ingest_events_file)
    statistics = StatisticsReader(
        pool,
        DownloadsRepository(pool, settings.retention_days),
        RankingsRepository(pool, settings.retention_days),
        known_events,
    )
    publication_watch = PublicationWatch(
        database_url,
        settings.retention_days,
        settings.ingest_schedule.next_day_due_at,
        clock,
        recheck_after=timedelta(hours=settings.ingest_recheck_after_hours),
    )
    scheduler = (
        IngestScheduler(
            settings.ingest_schedule, partial(run_ingest_job, settings, database_url, clock), clock
        )
        if settings.source is not IngestSource.NONE
        else None
    )
    storage_uri = settings.rate_limit_storage_uri
    client_limits = settings.client_rate_limits
    rate_limits = (
        RateLimits(
            settings.rate_limits,
            client_limits.get_secret_value() if client_limits else "",
            storage_uri.get_secret_value() if storage_uri else None,
        )
        if settings.rate_limits or client_limits
        else None
    )
    proxies = TrustedProxies(settings.trusted_proxies)
    rejections = LogLineLimit()
    uncounted = LogLineLimit("requests without a limit", max_lines=600, max_clients=10_000)
    connections = Connections(
        settings.max_connections, settings.max_connections_per_client, proxies, rejections
    )
    is_logged = settings.request_log and settings.log_level in ("debug", "info")
    request_log = RequestLog(
        settings.log_format if is_logged else None,
        rejections,
        uncounted if rate_limits else None,
        {name for endpoint in ENDPOINTS for name in endpoint.query.model_fields},
        clock,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        connections.max_total = allowed_connections(settings.max_connections)
        await pool.open()
        if scheduler:
            scheduler.start()
        watch = asyncio.create_task(publication_watch.watch())
        await publication_watch.first_check_done.wait()
        yield
        if scheduler:
            scheduler.stop()
        if rate_limits:
            rate_limits.close()
        watch.cancel()
        dispatcher.close()
        closed = asyncio.create_task(pool.close())
        # Stop in time even if the database does not respond.
        await asyncio.wait([watch, closed], timeout=LIFESPAN_CLOSE_SECONDS)
        rejections.summarise()
        uncounted.summarise()

    state = State(
        statistics=statistics,
        readiness=ReadinessCheck(pool),
        events=known_events,
        dumps=DumpListCache(DumpFolder(settings.dumps_dir), settings.dumps_url or SERVED_URL),
        publication=lambda: publication_watch.publication,
        publication_metrics=publication_watch.publication_metrics,
        next_run=lambda: scheduler.next_run if scheduler else None,
        next_reading=partial(held_due_at, settings),
        next_check=suspect_due_at,
    )
    api = _create_api(settings, state, lifespan)
    dispatcher = Dispatcher(
        app=api,
        endpoints=ENDPOINTS,
        statistics=statistics,
        cache=ResponseCache(publication_watch, settings.response_cache_max_bytes),
        tagger=Tagger(f"{RENDERING_VERSION} {known_events.digest}"),
        publication_watch=publication_watch,
        rate_limits=rate_limits,
        proxies=proxies,
        log=request_log,
        clock=clock,
        timeout_seconds=settings.request_timeout_seconds,
    )
    return Service(api, dispatcher, connections, state)


def _create_api(settings: Settings, state: State, lifespan: Lifespan[FastAPI]) -> API:
    """Create the FastAPI application, with the OpenAPI document of the whole service."""
    api = API(
        state,
        title="PyPI Stats API",
        version=version("pypi-stats-api"),
        lifespan=lifespan,
        # Return a 404 in the usual format for a path with a trailing slash, instead of a redirect.
        redirect_slashes=False,
        routes=_ROUTER.routes,
        # `docs_page` replaces FastAPI's document, which is created for each request, and its pages,
        # which load scripts from other servers.
        openapi_url=None,
    )
    docs_page.install(api)
    install_document(api, settings, ENDPOINTS, state.events)
    problem_details.install(api)
    api.add_middleware(RequestGuardMiddleware, timeout_seconds=settings.request_timeout_seconds)
    api.add_middleware(CompressMiddleware)
    return api
