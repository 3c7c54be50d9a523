"""Puts the service together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.api import packages, problem_details, rate_limit, status
from app.api.cors import CORSMiddleware
from app.api.head import HeadMiddleware
from app.api.openapi import describe
from app.db.downloads_repository import DownloadsRepository
from app.db.engine import create_engine
from app.errors import SettingsError
from app.ingest.scheduler import create_scheduler, run_daily_job
from app.logs import configure_logging
from app.settings import Settings, load_settings


def create_app_from_environment() -> FastAPI:
    """What each server process runs. `DATABASE_URL` is set: `app.cli` has seen to it."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL: should be set, or use `python -m app serve`")
    return create_app(settings, settings.database_url.get_secret_value())


def create_app(settings: Settings, database_url: str) -> FastAPI:
    """The service on a migrated database. Nothing connects before its lifespan begins."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = create_engine(database_url)
        app.state.repository = DownloadsRepository(engine, settings.retention_days)
        scheduler = create_scheduler(
            settings.ingest_schedule, partial(run_daily_job, settings, database_url)
        )
        app.state.scheduler = scheduler
        scheduler.start()
        yield
        scheduler.shutdown(wait=False)
        await engine.dispose()

    # FastAPI, with the documentation pages' scripts and styles served from here.
    app = FastAPIOffline(
        title="PyPI Stats API",
        version=version("pypi-stats-api"),
        lifespan=lifespan,
        # A client that does not follow redirects gets a 404 it can understand.
        redirect_slashes=False,
    )
    app.include_router(packages.router)
    app.include_router(status.router)
    describe(app, settings.retention_days)
    problem_details.install(app)
    # The last one added is the first that a request meets.
    rate_limit.install(app, settings.rate_limits)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(CORSMiddleware)
    return app
