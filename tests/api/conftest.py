from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import pool
from app.ingest.scheduler import IngestScheduler
from app.main import Service
from tests.days import days_ago, downloads, publish
from tests.waiting import until


@pytest.fixture(autouse=True)
def _no_ingest_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the ingest job from publishing anything besides what the tests publish."""
    monkeypatch.setattr(IngestScheduler, "start", lambda _: None)


@pytest.fixture
async def two_days(engine: AsyncEngine) -> None:
    """Two days of downloads, by which every category is there."""
    await publish(
        engine,
        days_ago(1),
        downloads(
            "zope-interface",
            {"2.7": 1, "3.9": 20, "3.10": 300, "null": 4000},
            {"windows": 4000, "linux": 300, "darwin": 20, "null": 1},
            mirrors=50000,
        ),
        downloads("mirrored-only", 0, mirrors=3),
    )
    await publish(
        engine,
        days_ago(0),
        downloads(
            "zope-interface", {"3.9": 21, "3.10": 301}, {"linux": 302, "other": 20}, mirrors=6
        ),
        downloads("requests", 7),
    )


@pytest.fixture
async def known_days(app: Service, two_days: None) -> None:
    """`two_days`, and the service has heard of them."""
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication and known.publication.latest_day == days_ago(0))


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries that requests send to the database."""
    sent: list[str] = []
    fetch = asyncpg.Connection.fetch

    async def note_and_fetch(driver: asyncpg.Connection, statement: str, *arguments: Any) -> Any:
        sent.append(statement)
        return await fetch(driver, statement, *arguments)

    # The service's own checks of what is published use other connections.
    monkeypatch.setattr(pool._Connection, "fetch", note_and_fetch)
    return sent
