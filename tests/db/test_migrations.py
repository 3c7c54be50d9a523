"""Migrations build the schema that the code describes."""

import asyncio
import re
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import func, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.engine import connect, create_engine
from app.db.migrations import ALEMBIC_INI, migrate
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.tables import TRIGRAM_INDEX
from app.domain.downloads import Publication
from app.errors import OperatorError
from tests.days import RETENTION_DAYS, days_ago, downloads, publish

TABLES = {
    "packages",
    "top_packages",
    "trending_packages",
    "daily_downloads",
    "ingested_days",
    "publication",
    "held_days",
    "held_downloads",
    "ingest_runs",
    "alembic_version",
}


async def _tables(engine: AsyncEngine) -> set[str]:
    async with connect(engine) as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def _publication(engine: AsyncEngine) -> Publication:
    publication = await DownloadsRepository(engine, RETENTION_DAYS).publication()
    assert publication
    return publication


async def test_builds_all_tables(unmigrated_url: str) -> None:
    engine = create_engine(unmigrated_url)
    await migrate(engine)
    assert await _tables(engine) == TABLES
    await publish(engine, days_ago(0), downloads("flask", 1))
    await engine.dispose()


async def test_a_server_without_trigrams(
    unmigrated_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who may not use the extension goes without, and has it once it is there."""
    admin = create_engine(unmigrated_url)
    async with admin.begin() as connection:
        role = "test_without_trigrams"
        await connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        await connection.execute(text(f"GRANT ALL ON SCHEMA public TO {role}"))
    engine = create_engine(make_url(unmigrated_url).set(username=role).render_as_string())
    index = select(func.to_regclass(TRIGRAM_INDEX))
    await migrate(engine)
    async with connect(engine) as connection:
        assert await connection.scalar(index) is None
    assert "pg_trgm can't be used: permission denied to create extension" in caplog.text
    async with admin.begin() as connection:
        await connection.execute(text("CREATE EXTENSION pg_trgm"))
    await migrate(engine)
    async with connect(engine) as connection:
        assert await connection.scalar(index) == TRIGRAM_INDEX
    await engine.dispose()
    async with admin.begin() as connection:
        await connection.execute(text(f"DROP OWNED BY {role}"))
        await connection.execute(text(f"DROP ROLE {role}"))
    await admin.dispose()


async def test_no_drift_with_data_in_place(engine: AsyncEngine) -> None:
    """Partitions are not drift, and neither is anything else."""
    await publish(engine, days_ago(0), downloads("flask", 1))
    async with engine.begin() as connection:
        config = Config(ALEMBIC_INI)

        def check(sync: object) -> None:
            config.attributes["connection"] = sync
            command.check(config)

        await connection.run_sync(check)


async def test_what_drift_does_not_show_is_there(
    engine: AsyncEngine, connection: AsyncConnection
) -> None:
    """Alembic compares neither checks nor storage, and a partition gets its checks from us."""
    await publish(engine, days_ago(0), downloads("flask", 1))
    options = await connection.scalar(
        text("SELECT reloptions FROM pg_class WHERE oid = CAST('packages' AS regclass)")
    )
    assert options == ["fillfactor=50"]
    indexes = await connection.scalars(
        text("SELECT indexdef FROM pg_indexes WHERE indexname ~ '^daily_downloads_.*_date_idx$'")
    )
    assert [index.partition(" USING ")[2] for index in indexes] == [
        "brin (date) WITH (autosummarize='on')"
    ]
    keys = await connection.scalars(
        text("SELECT indexdef FROM pg_indexes WHERE indexname ~ '^daily_downloads_.*_pkey$'")
    )
    assert [index.partition(" USING ")[2] for index in keys] == [
        "btree (package_id, date) INCLUDE (with_mirrors, without_mirrors)"
    ]
    months = await connection.scalars(
        text(
            "SELECT reloptions FROM pg_class WHERE relname ~ '^daily_downloads_[0-9]{4}_[0-9]{2}$'"
        )
    )
    assert list(months) == [["autovacuum_vacuum_insert_scale_factor=0.02"]]
    # Names that begin alike lie side by side, whatever the database's collation.
    by_bytes = await connection.scalars(
        text("SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%(name COLLATE \"C\")%'")
    )
    assert set(by_bytes) >= {"ix_packages_name", "ix_packages_popular"}
    # What a publish rewrites of every package would no longer be rewritten in place.
    definitions = await connection.scalars(
        text("SELECT indexdef FROM pg_indexes WHERE tablename = 'packages'")
    )
    for definition in definitions:
        assert not re.search("last_|previous_week|month_rank", definition)
    with pytest.raises(IntegrityError, match="ck_daily_downloads_counts"):
        await connection.execute(text("UPDATE daily_downloads SET without_mirrors = 2"))


async def test_migrating_again_changes_nothing(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    before = await _tables(engine)
    await migrate(engine)
    assert await _tables(engine) == before


async def test_of_several_that_start_together_one_migrates(unmigrated_url: str) -> None:
    engines = [create_engine(unmigrated_url) for _ in range(4)]
    await asyncio.gather(*(migrate(engine) for engine in engines))
    assert await _tables(engines[0]) == TABLES
    for engine in engines:
        await engine.dispose()


async def test_a_database_that_is_further_than_the_code(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(OperatorError, match="migrated to 9999, which is further"):
        await migrate(engine)


def test_the_migrations_folder_is_no_package() -> None:
    """It would shadow the library of the same name."""
    assert not (Path(ALEMBIC_INI).parent / "alembic" / "__init__.py").exists()
