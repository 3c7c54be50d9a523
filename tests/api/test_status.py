import asyncio
from datetime import datetime, timedelta
from importlib.metadata import version

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api import readiness
from app.db.engine import connect, create_engine
from app.db.migrations import migrate
from app.db.pool import ReadPool
from app.db.repositories.downloads_repository import DownloadsRepository
from app.domain.downloads import Partition, Publication
from app.errors import HeldDayError
from app.ingest.publish import PublishContext
from app.ingest.rollup import roll_up_due
from app.ingest.runs import DayIngester, ingest_lock
from app.ingest.scheduler import run_ingest_job
from app.ingest.sources.sample import PACKAGES, SampleSource
from app.main import Service, create_app
from app.settings import IngestSource, Settings
from tests.clock import NOW
from tests.days import POLICY, RETENTION_DAYS, GivenSource, days_ago, downloads, ingest, publish
from tests.processes import free_port
from tests.waiting import until, until_known


async def test_status_of_an_empty_database(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/status")
    lists = ("sources", "counted_files", "gaps", "recent_days", "held", "events", "suspect")
    nulls = (
        *("followed", "first_day", "latest_day", "published_at", "first_month"),
        *("last_run", "next_run"),
    )
    assert response.json() == {
        "sample": False,
        "days": 0,
        "months": 0,
        "packages": 0,
        "downloads": 0,
        **{name: [] for name in lists},
        **dict.fromkeys(nulls),
    }


async def test_status_lists_published_days(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await publish(engine, days_ago(4), downloads("flask", 1))
    await publish(engine, days_ago(1), downloads("flask", 2))
    await publish(engine, days_ago(0), downloads("flask", 3, mirrors=9), downloads("numpy", 4))
    status = (await client.get("/api/status")).json()
    assert isinstance(status.pop("events"), list)
    assert status.pop("published_at") is not None
    assert isinstance(status.pop("suspect"), list)
    recent = status.pop("recent_days")
    assert all(day.pop("published_at") for day in recent)
    assert recent == [
        {"day": str(days_ago(0)), "packages": 2, "downloads": 7},
        {"day": str(days_ago(1)), "packages": 1, "downloads": 2},
        {"day": str(days_ago(4)), "packages": 1, "downloads": 1},
    ]
    assert status == {
        "sample": False,
        "sources": ["given"],
        "followed": None,
        "counted_files": ["all"],
        "first_day": str(days_ago(4)),
        "latest_day": str(days_ago(0)),
        "days": 3,
        "first_month": None,
        "months": 0,
        "gaps": [str(days_ago(3)), str(days_ago(2))],
        "packages": 2,
        "downloads": 7,
        "held": [],
        "last_run": None,
        "next_run": None,
    }


async def test_status_counts_the_stored_months(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    old = days_ago(RETENTION_DAYS + 31)
    for day in (old, days_ago(0)):
        await publish(engine, day, downloads("flask", 1))
    context = PublishContext(engine, POLICY, lambda: NOW)
    assert [month async for month in roll_up_due(context, Settings())]
    status = (await client.get("/api/status")).json()
    assert (status["first_month"], status["months"]) == (f"{old:%Y-%m}", 1)


async def test_status_lists_the_suspect_days(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    for ago in (1, 8, 15):
        await publish(engine, days_ago(ago), downloads("flask", 100))
    day = days_ago(22)
    seen = Partition(12, NOW - timedelta(hours=1))
    source = GivenSource({day: [downloads("flask", 5)]}, partitions={day: seen})
    await ingest(engine, source, day)
    (suspect,) = (await client.get("/api/status")).json()["suspect"]
    assert suspect.pop("published_at") == suspect.pop("checked_at")
    assert datetime.fromisoformat(suspect.pop("next_check")) == NOW + timedelta(days=1)
    assert datetime.fromisoformat(suspect["partition"].pop("modified_at")) == seen.modified_at
    assert suspect == {
        "day": str(day),
        "reason": f"5 downloads instead of 100 on {day:%A}s: a ratio of 0.05, minimum 0.60",
        "packages": 1,
        "downloads": 5,
        "partition": {"rows": 12},
    }
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication and known.publication.suspect_days == 1)
    assert "pypi_stats_suspect_dates 1.0" in (await client.get("/metrics")).text
    # The source gives all of it now.
    await publish(engine, day, downloads("flask", 90))
    assert (await client.get("/api/status")).json()["suspect"] == []


async def test_status_lists_held_days_with_the_reason(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await publish(engine, days_ago(7), downloads("flask", 100))
    source = GivenSource({days_ago(0): [downloads("flask", 10)]})
    async with ingest_lock(engine) as lock:
        ingester = DayIngester(PublishContext(engine, POLICY, lambda: NOW, lock), source)
        with pytest.raises(HeldDayError):
            await ingester.ingest_day(days_ago(0))
    status = (await client.get("/api/status")).json()
    assert status["latest_day"] == str(days_ago(7))
    (held,) = status["held"]
    read_at, again = (
        datetime.fromisoformat(held.pop(name)) for name in ("read_at", "next_reading")
    )
    assert again - read_at == timedelta(minutes=30)
    assert datetime.fromisoformat(held.pop("held_since")) == read_at
    assert held == {
        "day": str(days_ago(0)),
        "reason": f"10 downloads instead of 100 on {days_ago(0):%A}s: "
        "a ratio of 0.10, minimum 0.60",
        "packages": 1,
        "downloads": 10,
        "partition": None,
    }
    last = status["last_run"]
    assert (last["day"], last["outcome"]) == (str(days_ago(0)), "held")
    assert last["started_at"] == last["ended_at"]
    answer = await client.get("/api/packages/flask/overall")
    assert str(days_ago(0)) not in answer.text, "what is held is not served"


async def test_metrics_describe_the_published_days(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await publish(engine, days_ago(1), downloads("flask", 100))
    await publish(engine, days_ago(8), downloads("flask", 100))
    source = GivenSource({days_ago(15): [downloads("flask", 10)]})
    async with ingest_lock(engine) as lock:
        ingester = DayIngester(PublishContext(engine, POLICY, lambda: NOW, lock), source)
        with pytest.raises(HeldDayError):
            await ingester.ingest_day(days_ago(15))
    known = app.dispatcher.publication_watch
    await until(lambda: known.publication and known.publication.held_days == 1)
    figures = (await client.get("/metrics")).text
    assert "pypi_stats_held_dates 1.0" in figures
    assert f"pypi_stats_missing_dates {RETENTION_DAYS - 2}.0" in figures


async def test_status_marks_sample_data(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await ingest(engine, SampleSource(), days_ago(0))
    status = (await client.get("/api/status")).json()
    assert (status["sample"], status["sources"]) == (True, ["sample"])
    assert status["packages"] == len(PACKAGES) == 200


async def test_health_needs_no_database(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}


async def test_the_index_lists_addresses(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    index = (await client.get("/")).json()
    assert index == {
        "name": "PyPI Stats API",
        "version": version("pypi-stats-api"),
        "docs": "/docs",
        "openapi": "/openapi.json",
        "status": "/api/status",
        "data_as_of": None,
        "sample": False,
    }
    for name in ("docs", "openapi", "status"):
        assert (await client.get(index[name])).status_code == 200
    await publish(engine, days_ago(1), downloads("flask", 1))
    await until_known(app)
    assert (await client.get("/")).json()["data_as_of"] == str(days_ago(1))


async def test_ready_once_migrated(
    unmigrated_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "REUSE_SECONDS", 0.0)
    app = create_app(settings, unmigrated_url)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        response = await client.get("/ready")
        assert response.status_code == 503
        assert "the database is empty, and migration" in response.json()["detail"]
        assert int(response.headers["retry-after"]) > 0
        engine = create_engine(unmigrated_url)
        await migrate(engine)
        response = await client.get("/ready")
        assert (response.status_code, response.json()) == (200, {"status": "ready"})
        # A later version has migrated it, and this one runs on while it is replaced.
        async with connect(engine) as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))
            await connection.commit()
        assert (await client.get("/ready")).status_code == 200
        await engine.dispose()


async def test_readiness_checks_are_reused_for_a_second(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ReadPool] = []

    async def note(pool: ReadPool, *, accept_later: bool) -> None:
        assert accept_later
        asked.append(pool)
        await asyncio.sleep(0.01)

    monkeypatch.setattr(readiness, "check_migrated", note)
    answers = await asyncio.gather(*(client.get("/ready") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(asked) == 1


async def test_the_job_sets_its_metrics(
    database_url: str, engine: AsyncEngine, client: httpx.AsyncClient
) -> None:
    def figure(name: str, source: str) -> float | None:
        return REGISTRY.get_sample_value(f"pypi_stats_last_ingest_{name}", {"source": source})

    await ingest(engine, SampleSource(), days_ago(1))
    # Nothing else is published beside the sample: this fails before it asks for anything.
    emulator = f"http://127.0.0.1:{free_port()}"
    settings = Settings(ingest_source=IngestSource.BIGQUERY, bigquery_emulator_host=emulator)
    await run_ingest_job(settings, database_url, lambda: NOW)
    assert figure("success", "bigquery") == 0
    told = 'pypi_stats_last_ingest_success{source="bigquery"} 0.0'
    assert told in (await client.get("/metrics")).text
    await run_ingest_job(Settings(ingest_source=IngestSource.SAMPLE), database_url, lambda: NOW)
    assert figure("success", "sample") == 1
    assert figure("timestamp_seconds", "sample") == NOW.timestamp()
    assert 0 < (figure("seconds", "sample") or 0) < 60


async def test_status_and_its_header_see_one_state(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publish is committed between its queries, and heard of before it is sent."""
    await publish(engine, days_ago(1), downloads("requests", 7))
    known = await until_known(app)
    read = DownloadsRepository.publication

    async def read_and_publish(repository: DownloadsRepository) -> Publication | None:
        seen = await read(repository)
        await publish(engine, days_ago(0), downloads("requests", 7))
        await until_known(app, known)
        return seen

    monkeypatch.setattr(DownloadsRepository, "publication", read_and_publish)
    response = await client.get("/api/status")
    assert response.json()["latest_day"] == str(days_ago(1))
    assert response.headers["x-data-as-of"] == str(days_ago(1))
    assert (await client.get("/health")).headers["x-data-as-of"] == str(days_ago(0))
