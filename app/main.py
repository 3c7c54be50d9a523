"""Puts the service together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette_compress import CompressMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.api import (
    badges,
    bulk,
    docs_page,
    dumps,
    events,
    problem_details,
    rankings,
    recent,
    search,
    status,
    summary,
    time_series,
)
from app.api.answering import RENDERING
from app.api.dependencies import Repositories
from app.api.fast_path import FastPath
from app.api.fixed_headers import FixedHeadersMiddleware
from app.api.freshness import Freshness
from app.api.head import HeadMiddleware
from app.api.http_cache import HTTPCacheMiddleware, ResponseCache
from app.api.openapi import describe
from app.api.questions import Endpoints
from app.api.rate_limit import RateLimitMiddleware, RateLimits
from app.api.readiness import ReadinessCheck
from app.api.request_guard import RequestGuardMiddleware, StopMiddleware
from app.api.request_log import RequestLog, RequestLogMiddleware
from app.clock import Clock, utc_now
from app.db.downloads_repository import DownloadsRepository
from app.db.engine import close, count_connections, create_engine
from app.db.rankings_repository import RankingsRepository
from app.db.runs_repository import RunsRepository
from app.dumps.folder import DumpFolder
from app.errors import SettingsError
from app.events import KnownEvents
from app.ingest.plan import cadence_of, check_again_at, read_again_at
from app.ingest.scheduler import IngestScheduler, run_ingest_job
from app.interpreter import look_for_garbage_less_often
from app.logs import RequestLineWriter, configure_logging
from app.metrics import forget_ended_processes
from app.settings import IngestSource, Settings, load_settings

# In the order in which they are documented. What takes many packages comes before what takes any
# name: `recent` of many is not the package of that name.
_ENDPOINT_MODULES = (bulk, summary, recent, time_series, rankings, search, badges, events)

CLOSE_SECONDS = 0.6
"""How long the lifespan waits for connections to close."""

ENDPOINTS = Endpoints(endpoint for module in _ENDPOINT_MODULES for endpoint in module.ENDPOINTS)


def create_app_from_environment() -> FastAPI:
    """What each server process runs. `DATABASE_URL` is set: `app.cli.serve` has seen to it."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL: should be set, or use `python -m app serve`")
    forget_ended_processes()
    app = create_app(settings, settings.database_url.get_secret_value())
    look_for_garbage_less_often()
    return app


class Service(FastAPI):
    """FastAPI, behind what answers most requests without it.

    Middleware that FastAPI is given stands behind its own way in, which takes as long as all of the
    response cache does.
    """

    entrance: ASGIApp
    fast_path: FastPath
    """Before it, as the server asks."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.entrance(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def route(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The router takes a path with a newline after it for the path.
        if scope["path"].endswith("\n"):
            await problem_details.not_found()(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings, database_url: str, clock: Clock = utc_now) -> Service:
    """The service on a migrated database. Nothing connects before its lifespan begins."""
    freshness = Freshness(
        database_url, settings.retention_days, settings.ingest_schedule.due_at, clock
    )
    scheduler = (
        IngestScheduler(
            settings.ingest_schedule, partial(run_ingest_job, settings, database_url, clock), clock
        )
        if settings.source is not IngestSource.NONE
        else None
    )
    rate_limits = _rate_limits(settings)
    is_logged = settings.request_log and settings.log_level in ("debug", "info")
    request_lines = RequestLineWriter(settings.log_format, clock) if is_logged else None
    request_log = RequestLog(
        request_lines.write if request_lines else None,
        known_arguments={
            argument.name for endpoint in ENDPOINTS for argument in endpoint.arguments
        },
    )
    cache = ResponseCache(freshness, settings.response_cache_max_bytes)
    known_events = KnownEvents(settings.ingest_events_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = create_engine(database_url, autocommit=True)
        count_connections(engine)
        app.state.repositories = Repositories(
            engine,
            DownloadsRepository(engine, settings.retention_days),
            RankingsRepository(engine, settings.retention_days),
            known_events,
        )
        app.state.runs = RunsRepository(engine)
        app.state.readiness = ReadinessCheck(engine)
        if scheduler:
            scheduler.start()
        watch = asyncio.create_task(freshness.watch())
        await freshness.has_looked()
        yield
        if scheduler:
            scheduler.stop()
        if rate_limits:
            rate_limits.close()
        watch.cancel()
        closed = asyncio.create_task(close(engine))
        # A silent database does not keep the service from stopping.
        await asyncio.wait([watch, closed], timeout=CLOSE_SECONDS)
        if request_lines:
            request_lines.flush()

    app = Service(
        title="PyPI Stats API",
        version=version("pypi-stats-api"),
        lifespan=lifespan,
        # A client that does not follow redirects gets a 404 it can understand.
        redirect_slashes=False,
        # FastAPI's own pages load from elsewhere: `docs_page` has ours.
        docs_url=None,
        redoc_url=None,
    )
    app.state.endpoints = ENDPOINTS
    app.state.freshness = freshness
    app.state.scheduler = scheduler
    app.state.read_again_at = partial(read_again_at, cadence_of(settings))
    app.state.check_again_at = check_again_at
    _install_routes(app, settings)
    describe(app, settings, ENDPOINTS)
    problem_details.install(app)
    app.add_middleware(RequestGuardMiddleware, timeout_seconds=settings.request_timeout_seconds)
    app.add_middleware(CompressMiddleware)
    answering = HTTPCacheMiddleware(
        app.route,
        cache=cache,
        endpoints=ENDPOINTS,
        repositories=lambda: app.state.repositories,
        freshness=freshness,
        rendering=f"{RENDERING} {known_events.digest}",
        clock=clock,
        timeout_seconds=settings.request_timeout_seconds,
    )
    app.entrance = _entrance(answering, settings, freshness, rate_limits, request_log, clock)
    app.fast_path = FastPath(
        cache, ENDPOINTS, freshness, rate_limits, request_log, list(settings.trusted_proxies), clock
    )
    return app


def _entrance(
    entrance: ASGIApp,
    settings: Settings,
    freshness: Freshness,
    rate_limits: RateLimits | None,
    request_log: RequestLog,
    clock: Clock,
) -> ASGIApp:
    """Everything that a request passes before it is answered, from the inside out."""
    entrance = StopMiddleware(entrance)
    if rate_limits:
        entrance = RateLimitMiddleware(entrance, rate_limits, clock)
    entrance = FixedHeadersMiddleware(HeadMiddleware(entrance), freshness.as_of)
    entrance = RequestLogMiddleware(entrance, request_log)
    if settings.trusted_proxies:
        # uvicorn has types of its own for what both take from ASGI.
        entrance = ProxyHeadersMiddleware(  # type: ignore[assignment]
            entrance,  # type: ignore[arg-type]
            list(settings.trusted_proxies),
        )
    return entrance


def _install_routes(app: FastAPI, settings: Settings) -> None:
    app.state.dumps = dumps.ListedDumps(
        DumpFolder(settings.dumps_dir), settings.dumps_url or dumps.SERVED_URL
    )
    for module in (*_ENDPOINT_MODULES, dumps, status):
        app.include_router(module.router)
    docs_page.install(app)


def _rate_limits(settings: Settings) -> RateLimits | None:
    uri = settings.rate_limit_storage_uri
    if not settings.rate_limits:
        return None
    return RateLimits(settings.rate_limits, uri.get_secret_value() if uri else None)
