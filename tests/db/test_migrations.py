"""Migrations build the schema that the code describes."""

import asyncio
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, func, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import migrations
from app.db.day_digest import figures_query
from app.db.engine import connect, create_engine, driver_of
from app.db.migrations import ALEMBIC_INI, migrate
from app.db.partitions import ensure_partition
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.tables import TRIGRAM_INDEX, held_days, ingested_days, metadata
from app.domain.breakdowns import OPTIONAL_COLUMNS
from app.domain.downloads import PackageDownloads, Publication
from app.domain.package_name import ALL_PACKAGES
from app.errors import HeldDayError, OperatorError
from app.ingest.verification import days_to_verify, verify
from tests.days import POLICY, RETENTION_DAYS, GivenSource, days_ago, downloads, ingest, publish

TABLES = {
    "packages",
    "top_packages",
    "trending_packages",
    "daily_downloads",
    "ingested_days",
    "publication",
    "held_days",
    "held_downloads",
    "monthly_downloads",
    "stored_months",
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
    """A user that may not create the extension gets the index once the extension exists."""
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


async def test_schema_parts_that_alembic_does_not_compare_exist(
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


NEW_REVISION = """
from app.db.migrations import add_breakdown

revision = "9999"
down_revision = {latest!r}


def upgrade() -> None:
    add_breakdown("made_up")
"""

BREAKDOWNS_OF_0001 = ("installer", "ci", "country", "version", "implementation")


@pytest.fixture
def _with_new_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The migrations, and a new one that adds a breakdown."""
    folder = ALEMBIC_INI.parent
    shutil.copytree(folder / "alembic", tmp_path / "alembic")
    shutil.copy(ALEMBIC_INI, tmp_path)
    new = tmp_path / "alembic" / "versions" / "9999_made_up.py"
    new.write_text(NEW_REVISION.format(latest=migrations._revisions()[-1]))
    monkeypatch.setattr(migrations, "ALEMBIC_INI", tmp_path / ALEMBIC_INI.name)
    migrations._revisions.cache_clear()
    yield
    monkeypatch.undo()
    migrations._revisions.cache_clear()


def _with_breakdowns(count: int) -> PackageDownloads:
    counts = {"null": count}
    return downloads(
        "flask",
        count,
        installer={"pip": count},
        ci=counts,
        country=counts,
        version={"1.0": count},
        implementation=counts,
    )


def _columns(connection: Connection, table: str) -> list[str]:
    return [column["name"] for column in inspect(connection).get_columns(table)]


async def _copy_content(source: AsyncEngine, target: AsyncEngine) -> None:
    """Copy all days and packages into another database, which may have fewer tables and columns."""
    there = await _tables(target)
    async with connect(source) as reading, connect(target) as writing:
        for day in await reading.scalars(select(ingested_days.c.day)):
            await ensure_partition(writing, day)
        for table in metadata.sorted_tables:
            if table.name not in there:
                continue
            columns = await writing.run_sync(_columns, table.name)
            rows = io.BytesIO()
            await driver_of(reading).copy_from_query(
                f"SELECT {', '.join(columns)} FROM {table.name}", output=rows
            )
            rows.seek(0)
            await driver_of(writing).copy_to_table(table.name, columns=columns, source=rows)
        await writing.commit()


@pytest.mark.usefixtures("_with_new_revision")
async def test_days_stay_valid_through_every_revision(
    engine: AsyncEngine, unmigrated_url: str
) -> None:
    """Days with the breakdowns of the first revision, published and held, are verified after the
    latest one and a new one that adds a breakdown.
    """
    for ago in range(9, 0, -1):
        await publish(engine, days_ago(ago), _with_breakdowns(100))
    source = GivenSource({days_ago(0): [_with_breakdowns(1)]})
    with pytest.raises(HeldDayError):
        await ingest(engine, source, days_ago(0), POLICY)
    migrated = create_engine(unmigrated_url)

    def upgrade(sync: Connection) -> None:
        config = Config(migrations.ALEMBIC_INI)
        config.attributes["connection"] = sync
        command.upgrade(config, "0001")

    async with connect(migrated) as connection:
        await connection.run_sync(upgrade)
        await connection.commit()
    await _copy_content(engine, migrated)
    await migrate(migrated)
    days = await days_to_verify(migrated, None)
    assert len(days) == 9
    verified = [one async for one in verify(migrated, days, packages=True)]
    assert [one.differences for one in verified if one.differences] == []
    async with connect(migrated) as connection:
        for record, rows in (
            (ingested_days, "daily_downloads JOIN packages ON id = package_id WHERE date = :day"),
            (held_days, "held_downloads WHERE day = :day"),
        ):
            of_packages = f"(SELECT * FROM {rows} AND name <> '{ALL_PACKAGES}') AS of_packages"
            # As code with the new breakdown computes it.
            query = text(figures_query(of_packages, (*OPTIONAL_COLUMNS, "made_up")))
            for recorded in (await connection.execute(select(record))).all():
                found = (await connection.execute(query, {"day": recorded.day})).one()
                assert found.digest == recorded.digest
                assert found.breakdowns == recorded.breakdowns == list(BREAKDOWNS_OF_0001)
        for table in metadata.tables.values():
            if OPTIONAL_COLUMNS[0] in table.c:
                await connection.execute(text(f"UPDATE {table.name} SET made_up = '{{}}'"))
    await migrated.dispose()


async def test_migrating_again_changes_nothing(engine: AsyncEngine) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    before = await _tables(engine)
    await migrate(engine)
    assert await _tables(engine) == before


async def test_only_one_of_several_processes_migrates(unmigrated_url: str) -> None:
    engines = [create_engine(unmigrated_url) for _ in range(4)]
    await asyncio.gather(*(migrate(engine) for engine in engines))
    assert await _tables(engines[0]) == TABLES
    for engine in engines:
        await engine.dispose()


async def test_a_database_with_later_migrations(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(OperatorError, match="at migration 9999, and this code knows only"):
        await migrate(engine)


def test_the_migrations_folder_is_no_package() -> None:
    """A package would shadow the library of the same name."""
    assert not (Path(ALEMBIC_INI).parent / "alembic" / "__init__.py").exists()
