"""Real parts for every test: a Postgres server, a migrated database of the test's own, the whole
service in front of it, and a BigQuery server that speaks the protocol.
"""

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import hypothesis
import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app import retries
from app.db.embedded import embedded_postgres
from app.db.engine import connect, create_engine
from app.db.migrations import migrate
from app.domain.clock import utc_now
from app.ingest.pipeline import read_and_publish
from app.ingest.publish import PublishContext
from app.ingest.sources.sample import SampleSource
from app.logs import LOG_STREAM
from app.main import Service, create_app
from app.settings import IngestSource, Settings
from tests.clock import ManualClock
from tests.databases import Databases, administration, url_of
from tests.days import FORCED
from tests.processes import (
    free_port,
    get,
    latest_complete_day,
    run,
    served,
    shared_folder,
    wait_for,
)

if TYPE_CHECKING:
    from google.cloud import bigquery

TEMPLATE = "migrated"
SAMPLE_TEMPLATE = "sample"

LONGEST_FILES = (
    "ingest/test_outage.py",
    "sources/test_bigquery.py",
    "cli/test_serve.py",
    "ingest/test_scheduler.py",
    "ingest/test_pipeline.py",
    "cli/test_cli.py",
    "tests/test_readme.py",
    "stores/test_bucket.py",
    "ingest/test_runs.py",
    "cli/test_shutdown.py",
    "serving/test_http_cache.py",
    "sources/test_file.py",
    "dumps/test_export.py",
    "api/test_schemathesis.py",
)
"""Files that take longest, the longest first."""

_numbers = count(1)

# How long an example takes says more of the machine than of what is tested.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are cores, because workers often wait for a process."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that no worker runs one alone in the end."""
    order = {name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: order.get(f"{item.path.parent.name}/{item.path.name}", len(order)))


def pytest_collection_finish() -> None:
    """Exclude all modules from later garbage collections, which would search them each time."""
    gc.freeze()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Let the log's thread write its lines while pytest captures them."""
    try:
        return (yield)
    finally:
        LOG_STREAM.drain()


pytest_runtest_setup = pytest_runtest_teardown = pytest_runtest_call


@pytest.fixture(autouse=True, scope="session")
def _environment() -> Iterator[None]:
    """No setting of the machine or of a `.env` file reaches a test or a process that it starts, and
    the clouds' libraries find no credentials and look for no cloud.
    """
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as nothing:
        for name, field in Settings.model_fields.items():
            # Empty counts as left out, and goes before a file.
            patch.setenv(name.upper(), field.default if name == "rate_limits" else "")
        patch.setenv("CLOUDSDK_CONFIG", nothing)
        patch.setenv("DUMPS_DIR", str(Path(nothing) / "dumps"))
        for name in ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
            patch.delenv(name, raising=False)
        # What `make test` passes on is not meant for a make that a test runs.
        for name in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "ARGS"):
            patch.delenv(name, raising=False)
        patch.setenv("NO_GCE_CHECK", "true")
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, str(Path(nothing) / "none"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(autouse=True, scope="session")
def _shared_statements() -> Iterator[None]:
    """Let all engines share their compiled statements. A test has an engine or more of its own, and
    compiling its statements takes longer than running them.
    """
    options: dict[str, dict[object, object]] = {"compiled_cache": {}}
    create = partial(create_async_engine, execution_options=options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.db.engine.create_async_engine", create)
        # The cache's keys contain the dialect, and all engines have the same options.
        patch.setattr(PGDialect_asyncpg, "__eq__", lambda one, other: type(one) is type(other))
        patch.setattr(PGDialect_asyncpg, "__hash__", lambda one: hash(type(one)))
        yield


@pytest.fixture
def clock() -> ManualClock:
    """The test's own clock, which begins at `NOW`."""
    return ManualClock()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder for an embedded Postgres. If root runs the tests, others can't enter `tmp_path`."""
    with shared_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def address(_session_sample_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running service with 30 days of sample data and a dump of the latest, which
    no test changes.
    """
    folder = tmp_path_factory.mktemp("service")
    with served(folder, folder / "log", DATABASE_URL=_session_sample_url) as (address, _):
        latest = get(f"{address}/api/status").json()["latest_day"]
        dumps = str(folder / "dumps")
        exported = run("export", "--date", latest, "--to", dumps, DATABASE_URL=_session_sample_url)
        assert exported.returncode == 0, exported.stderr
        yield address


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A Postgres server for the session."""
    with shared_folder() as folder, embedded_postgres(folder) as url:
        yield url


@pytest.fixture(scope="session")
async def _template(server_url: str) -> None:
    """A migrated database that others are copies of."""
    async with administration(server_url) as connection:
        # What the tests write need not survive the machine.
        for setting in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
            await connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        await connection.execute(text("SELECT pg_reload_conf()"))
        await connection.execute(text(f"CREATE DATABASE {TEMPLATE}"))
    engine = create_engine(url_of(server_url, TEMPLATE))
    await migrate(engine)
    await engine.dispose()


@pytest.fixture(scope="session")
async def _sample_template(server_url: str, _template: None) -> None:
    """The same with 30 days of sample data, of which the latest is the latest complete day."""
    async with administration(server_url) as connection:
        await connection.execute(text(f"CREATE DATABASE {SAMPLE_TEMPLATE} TEMPLATE {TEMPLATE}"))
    engine = create_engine(url_of(server_url, SAMPLE_TEMPLATE))
    context = PublishContext(engine, FORCED, utc_now)
    latest = latest_complete_day()
    for ago in range(30):
        await read_and_publish(context, SampleSource(), latest - timedelta(days=ago))
    await engine.dispose()


async def _in_new_database(server_url: str, create: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    async with administration(server_url) as connection:
        await connection.execute(text(f"CREATE DATABASE {name} {create}"))
        yield url_of(server_url, name)
        await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def _databases(server_url: str, _template: None) -> Databases:
    return Databases(server_url, TEMPLATE)


@pytest.fixture
async def database_url(_databases: Databases) -> AsyncIterator[str]:
    """A migrated database without data."""
    async with _databases.empty() as url:
        yield url


@pytest.fixture(scope="module")
async def module_database_url(_databases: Databases) -> AsyncIterator[str]:
    """A migrated database for tests that only read what their module has put into it."""
    async with _databases.empty() as url:
        yield url


@pytest.fixture
async def sample_url(server_url: str, _sample_template: None) -> AsyncIterator[str]:
    """A database with 30 days of sample data, for a service that need not make its own."""
    async for url in _in_new_database(server_url, f"TEMPLATE {SAMPLE_TEMPLATE}"):
        yield url


@pytest.fixture(scope="session")
async def _session_sample_url(server_url: str, _sample_template: None) -> AsyncIterator[str]:
    """Such a database for a service that no test changes."""
    async for url in _in_new_database(server_url, f"TEMPLATE {SAMPLE_TEMPLATE}"):
        yield url


@pytest.fixture
async def unmigrated_url(server_url: str) -> AsyncIterator[str]:
    """A database with nothing in it."""
    async for url in _in_new_database(server_url, ""):
        yield url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with connect(engine) as connection:
        yield connection


@pytest.fixture
def settings() -> Settings:
    """The defaults, but without limits and without an ingest job: a test that means them sets
    them.
    """
    return Settings(rate_limits="", ingest_source=IngestSource.NONE)


@pytest.fixture
async def app(settings: Settings, database_url: str, clock: ManualClock) -> AsyncIterator[Service]:
    """The service, started, on the test's database."""
    app = create_app(settings, database_url, clock)
    async with app.running():
        yield app


@pytest.fixture
async def client(app: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole service, middleware included; what raises is answered, as in life."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture(scope="session")
def emulator_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A BigQuery emulator in a process of its own."""
    # It would download DuckDB's extensions into the home folder: wheels put them into another.
    home = tmp_path_factory.mktemp("emulator")
    install = (
        "import duckdb_extensions as d; d.import_extension('spatial'); d.import_extension('avro')"
    )
    environment = os.environ | {"HOME": str(home)}
    subprocess.run([sys.executable, "-c", install], env=environment, check=True)
    port = free_port()
    emulator = str(Path(sys.executable).with_name("bqemulator"))
    command = [emulator, "start", "--log-level", "error"]
    ports = ["--rest-port", str(port), "--grpc-port", "0"]
    with (
        (home / "log").open("w") as log,
        subprocess.Popen(
            [*command, *ports], env=environment, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def emulator_client(emulator_host: str) -> "Iterator[bigquery.Client]":
    from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415 - slow to import
    from google.cloud import bigquery  # noqa: PLC0415 - slow to import

    client = bigquery.Client(
        project="emulator",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": emulator_host},
    )
    yield client
    client.close()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as ever, without the pauses."""
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(retries, "JITTER_SECONDS", 0.001)
