"""Puts the service together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from starlette_compress import CompressMiddleware

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
from app.api.endpoints import RENDERING, Endpoints
from app.api.openapi import describe
from app.api.readiness import ReadinessCheck
from app.api.request_guard import RequestGuardMiddleware
from app.api.statistics import StatisticsReader
from app.db.engine import close, count_connections, create_engine
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.rankings_repository import RankingsRepository
from app.db.repositories.runs_repository import RunsRepository
from app.domain.clock import Clock, utc_now
from app.domain.events import KnownEvents
from app.dumps.stores.folder import DumpFolder
from app.errors import SettingsError
from app.ingest.plan import cadence_of, check_again_at, read_again_at
from app.ingest.scheduler import IngestScheduler, run_ingest_job
from app.interpreter import look_for_garbage_less_often
from app.logs import RequestLineWriter, configure_logging
from app.metrics import forget_ended_processes
from app.serving.dispatch import Dispatcher
from app.serving.freshness import Freshness
from app.serving.proxies import TrustedProxies
from app.serving.rate_limits import RateLimits
from app.serving.request_log import RequestLog
from app.serving.response_cache import ResponseCache, Tagger
from app.settings import IngestSource, Settings, load_settings

# In the order of the documentation.
_ENDPOINT_MODULES = (recent, time_series, summary, bulk, rankings, search, badges)

CLOSE_SECONDS = 0.6
"""How long the lifespan waits for connections to close."""

ENDPOINTS = Endpoints(one for module in _ENDPOINT_MODULES for one in module.router.endpoints)


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
    """FastAPI behind the dispatcher, which answers data requests itself.

    As a FastAPI middleware, the dispatcher would take twice as long for a cache hit.
    """

    dispatcher: Dispatcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.dispatcher if scope["type"] == "http" else super().__call__
        await app(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that the dispatcher leaves to FastAPI."""
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
        known_arguments={name for endpoint in ENDPOINTS for name in endpoint.query.model_fields},
    )
    known_events = KnownEvents(settings.ingest_events_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = create_engine(database_url, autocommit=True)
        count_connections(engine)
        app.state.statistics = StatisticsReader(
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
    app.state.events = known_events
    app.state.freshness = freshness
    app.state.scheduler = scheduler
    app.state.read_again_at = partial(read_again_at, cadence_of(settings))
    app.state.check_again_at = check_again_at
    _install_routes(app, settings)
    describe(app, settings, ENDPOINTS)
    problem_details.install(app)
    app.add_middleware(RequestGuardMiddleware, timeout_seconds=settings.request_timeout_seconds)
    app.add_middleware(CompressMiddleware)
    app.dispatcher = Dispatcher(
        app=app.answer,
        endpoints=ENDPOINTS,
        statistics=lambda: app.state.statistics,
        cache=ResponseCache(freshness, settings.response_cache_max_bytes),
        tagger=Tagger(f"{RENDERING} {known_events.digest}"),
        freshness=freshness,
        rate_limits=rate_limits,
        proxies=TrustedProxies(settings.trusted_proxies),
        log=request_log,
        clock=clock,
        timeout_seconds=settings.request_timeout_seconds,
    )
    return app


def _install_routes(app: FastAPI, settings: Settings) -> None:
    app.state.dumps = dumps.ListedDumps(
        DumpFolder(settings.dumps_dir), settings.dumps_url or dumps.SERVED_URL
    )
    for module in (*_ENDPOINT_MODULES, events, dumps, status):
        app.include_router(module.router)
    docs_page.install(app)


def _rate_limits(settings: Settings) -> RateLimits | None:
    uri = settings.rate_limit_storage_uri
    if not settings.rate_limits:
        return None
    return RateLimits(settings.rate_limits, uri.get_secret_value() if uri else None)
