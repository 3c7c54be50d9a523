"""The schema: what migrations build is what the code says, both ways."""

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

from app import retries
from app.breakdowns import PYTHON_MINOR, REQUIRED_COLUMNS
from app.db import migrations
from app.db.downloads_repository import DownloadsRepository
from app.db.engine import connect, create_engine, fetch
from app.db.ingest_repository import IngestRepository
from app.db.migrations import ALEMBIC_INI, migrate
from app.db.tables import TRIGRAM_INDEX
from app.downloads import Publication
from app.errors import MigrationError
from app.ingest.rows import Rejected, RowCheck
from app.ingest.verification import days_to_verify, verify
from app.rankings import TREND_DAYS
from tests.contents import everything
from tests.days import RETENTION_DAYS, by_category, days_ago, downloads, publish

READERS_PATIENCE_SECONDS = 1.5
"""Of a reader, on a machine that has other things to do as well."""

TABLES = {
    "packages",
    "top_packages",
    "trending_packages",
    "daily_downloads",
    "ingested_days",
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


async def _downgrade(engine: AsyncEngine, revision: str) -> None:
    config = Config(ALEMBIC_INI)

    def downgrade(sync: object) -> None:
        config.attributes["connection"] = sync
        command.downgrade(config, revision)

    async with engine.begin() as connection:
        await connection.run_sync(downgrade)


async def test_up_and_down_and_up(unmigrated_url: str) -> None:
    engine = create_engine(unmigrated_url)
    await migrate(engine)
    assert await _tables(engine) == TABLES
    await publish(engine, days_ago(0), downloads("flask", 1))

    await _downgrade(engine, "base")
    assert await _tables(engine) == {"alembic_version"}

    await migrate(engine)
    await publish(engine, days_ago(0), downloads("flask", 1))
    await engine.dispose()


async def test_days_that_were_published_before_are_brought_along(
    engine: AsyncEngine, connection: AsyncConnection
) -> None:
    """From the first migration on: what later ones record of a day is found in its rows."""
    await publish(engine, days_ago(1), downloads("flask", 1, mirrors=4), downloads("numpy", 2))
    await publish(engine, days_ago(0), downloads("flask", 3))
    recorded = text("SELECT day, downloads_with_mirrors FROM ingested_days ORDER BY day")
    before = (await connection.execute(recorded)).all()
    await connection.rollback()
    await _downgrade(engine, "0001")
    await migrate(engine)
    assert (await connection.execute(recorded)).all() == before
    assert [row[1] for row in before] == [7, 3]
    checked = "SELECT count(*) FROM ingested_days WHERE checked_at = published_at"
    assert await connection.scalar(text(checked)) == 2


async def test_counts_are_converted_there_and_back(
    engine: AsyncEngine, connection: AsyncConnection
) -> None:
    """With the digests of their days: `verify` finds nothing, and equal rows stay equal."""
    flask = downloads("flask", {"3.9": 2, "3.10": 1, "null": 4})
    await publish(engine, days_ago(40), downloads("numpy", 9, mirrors=4), flask)
    await publish(engine, days_ago(0), downloads("numpy", 0, mirrors=4), flask)
    repository = IngestRepository(connection)
    await repository.begin_staging()
    await repository.stage(RowCheck(REQUIRED_COLUMNS, Rejected()).staged([flask]))
    held = await repository.figures_of_staged(days_ago(1), "given")
    await repository.hold(held, "for a test", 0)
    await connection.commit()

    stored = text(
        "SELECT date, CAST(python_minor AS text), CAST(system AS text) FROM daily_downloads"
        " UNION ALL "
        "SELECT day, CAST(python_minor AS text), CAST(system AS text) FROM held_downloads"
        " ORDER BY 1, 2, 3"
    )
    digests = text(
        "SELECT day, digest FROM ingested_days UNION SELECT day, digest FROM held_days ORDER BY day"
    )
    before = [(await connection.execute(query)).all() for query in (stored, digests)]
    await connection.rollback()
    assert '{"3.10":1,"3.9":2,"null":4}' in [row[1] for row in before[0]]

    await _downgrade(engine, "0002")
    spaced = [(await connection.execute(query)).all() for query in (stored, digests)]
    await connection.rollback()
    assert '{"3.9": 2, "3.10": 1, "null": 4}' in [row[1] for row in spaced[0]]
    assert {row[1] for row in spaced[1]}.isdisjoint({row[1] for row in before[1]})

    await migrate(engine)
    assert [(await connection.execute(query)).all() for query in (stored, digests)] == before
    async for step in verify(engine, await days_to_verify(engine, None), packages=True):
        assert list(step.differences) == []


async def test_days_that_lose_optional_breakdowns_are_as_if_they_never_had_them(
    engine: AsyncEngine, connection: AsyncConnection
) -> None:
    """And one that was damaged is damaged still."""
    flask = downloads("flask", {"3.12": 2}, installer={"pip": 2}, ci={"true": 2})
    for ago in (2, 1, 0):
        await publish(engine, days_ago(ago), flask)
    await publish(engine, days_ago(3), downloads("flask", 2))
    repository = IngestRepository(connection)
    await repository.begin_staging()
    columns = [*REQUIRED_COLUMNS, "installer", "ci"]
    await repository.stage(RowCheck(columns, Rejected()).staged([flask]), columns)
    figures = await repository.figures_of_staged(days_ago(4), "given")
    await repository.hold(figures, "for a test", 0)
    damage = "UPDATE daily_downloads SET with_mirrors = 9 WHERE date = :day"
    await connection.execute(text(damage), {"day": days_ago(1)})
    await connection.commit()
    digests = text(
        "SELECT digest FROM (SELECT day, digest FROM ingested_days"
        " UNION SELECT day, digest FROM held_days) AS days ORDER BY day"
    )
    await _downgrade(engine, "0003")
    await migrate(engine)
    held, plain, older, damaged, latest = (await connection.scalars(digests)).all()
    assert held == plain == older == latest != damaged
    different = [
        step.day
        async for step in verify(engine, await days_to_verify(engine, None), packages=False)
        if any(difference.what == "digest" for difference in step.differences)
    ]
    assert different == [days_ago(1)]


async def test_damage_from_before_is_told_after_as_well(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    for ago in (40, 1, 0):
        await publish(engine, days_ago(ago), downloads("flask", 2), downloads("numpy", 1))
    await _downgrade(engine, "0002")
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE daily_downloads SET with_mirrors = 9 FROM packages"
                " WHERE packages.id = package_id AND name = 'numpy' AND date = :day"
            ),
            {"day": days_ago(1)},
        )
    await migrate(engine)
    assert f"{days_ago(1)}: the rows are not those that ingested_days has recorded" in caplog.text
    assert f"{days_ago(0)}: the rows" not in caplog.text
    different = [
        step.day
        async for step in verify(engine, await days_to_verify(engine, None), packages=False)
        if any(difference.what == "digest" for difference in step.differences)
    ]
    assert different == [days_ago(1)]


async def test_days_from_before_there_were_optional_breakdowns_are_as_published(
    engine: AsyncEngine, connection: AsyncConnection
) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1, mirrors=4), downloads("numpy", 2))
    await _downgrade(engine, "0003")
    await migrate(engine)
    assert await connection.scalar(text("SELECT breakdowns FROM ingested_days")) == []
    unknown = "SELECT count(*) FROM daily_downloads WHERE installer IS NULL"
    assert await connection.scalar(text(unknown)) == 3
    async for step in verify(engine, await days_to_verify(engine, None), packages=True):
        assert list(step.differences) == []


async def test_days_are_served_while_they_are_converted(
    engine: AsyncEngine, connection: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long query that has them in use is waited for, and nobody waits behind it."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MILLISECONDS", 100)
    await publish(engine, days_ago(0), downloads("flask", 1))
    await _downgrade(engine, "0002")
    # As the version before asks, which knows no later column.
    served = text("SELECT CAST(python_minor AS jsonb) FROM daily_downloads")
    await connection.execute(text("SELECT * FROM daily_downloads"))
    migrating = asyncio.create_task(migrate(engine))
    for _ in range(5):
        async with asyncio.timeout(0.5), connect(engine) as reader:
            assert (await reader.scalars(served)).all() == [{"3.12": 1}] * 2
        await asyncio.sleep(0.05)
    assert not migrating.done()
    await connection.rollback()
    await migrating
    assert await by_category(engine, "flask", PYTHON_MINOR) == {"3.12": [(days_ago(0), 1)]}


async def test_ranks_of_what_was_published_before(engine: AsyncEngine) -> None:
    """They are those that a publish would have made."""
    for ago in range(TREND_DAYS + 2, -1, -1):
        rows = [downloads("flask", 3_000 - 100 * ago), downloads("numpy", 2_500)]
        await publish(engine, days_ago(ago), *rows, downloads("mirrored", 0, mirrors=1))
    before = await everything(engine)
    assert [name for _, name, *_ in before["trending"]] == ["flask"]
    await _downgrade(engine, "0004")
    await migrate(engine)
    assert await everything(engine) == before


async def test_what_the_version_before_publishes_meanwhile(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """It knows neither optional breakdowns nor ranks: nothing is said of it that is not so, and the
    next start ranks.
    """
    for ago in range(TREND_DAYS, 0, -1):
        await publish(engine, days_ago(ago), downloads("flask", 20_000 - 1_000 * ago))
    plain = await publish(engine, days_ago(0), downloads("flask", 7))
    before = await everything(engine)
    with_installer = downloads("flask", {"3.12": 7}, installer={"pip": 7})
    await publish(engine, days_ago(0), with_installer)
    assert (await _publication(engine)).breakdowns["installer"] == (days_ago(0),)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE daily_downloads SET installer = NULL"))
        await connection.execute(
            text("UPDATE ingested_days SET digest = :digest WHERE day = :day"),
            {"digest": plain.digest, "day": days_ago(0)},
        )
        await connection.execute(text("UPDATE packages SET previous_week = 1, month_rank = NULL"))
        await connection.execute(text("UPDATE top_packages SET name = 'sample'"))
    stale = await _publication(engine)
    assert stale.breakdowns["installer"] == ()
    await migrate(engine)
    assert "packages were ranked again" in caplog.text
    assert await everything(engine) == before
    # Who keeps answers for as long as the version stays asks for these again.
    assert (await _publication(engine)).version != stale.version
    async for step in verify(engine, await days_to_verify(engine, None), packages=True):
        assert list(step.differences) == []
    caplog.clear()
    await migrate(engine)
    assert not caplog.text


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


@pytest.mark.parametrize("before", [None, "0007"])
async def test_what_drift_does_not_show_is_there(
    engine: AsyncEngine, connection: AsyncConnection, before: str | None
) -> None:
    """Alembic compares neither checks nor storage, and a partition gets its checks from us; in
    months of the version before, too.
    """
    await publish(engine, days_ago(0), downloads("flask", 1))
    if before:
        await _downgrade(engine, before)
        await migrate(engine)
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


async def test_a_vacuum_that_has_to_be_waited_for_undoes_nothing(
    engine: AsyncEngine, connection: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is had before keys are built, whatever else may be waited for."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MILLISECONDS", 50)
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    await publish(engine, days_ago(0), downloads("flask", 1))
    await _downgrade(engine, "0007")
    month = f"daily_downloads_{days_ago(0):%Y_%m}"
    await connection.execute(text(f"LOCK TABLE {month} IN SHARE UPDATE EXCLUSIVE MODE"))
    migrating = asyncio.create_task(migrate(engine))
    await asyncio.sleep(0.5)
    assert not migrating.done()
    await connection.rollback()
    await migrating
    assert await _tables(engine) >= TABLES


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


async def test_a_migration_keeps_nobody_waiting_behind_a_long_query(
    engine: AsyncEngine, connection: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up, lets others pass, and tries again until the query has ended."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MILLISECONDS", 100)
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(retries, "JITTER_SECONDS", 0.0)
    await publish(engine, days_ago(0), downloads("flask", 1))
    await _downgrade(engine, "0001")
    await connection.execute(text("SELECT * FROM ingested_days"))
    migrating = asyncio.create_task(migrate(engine))
    for _ in range(5):
        async with asyncio.timeout(0.5), connect(engine) as reader:
            await reader.execute(text("SELECT max(day) FROM ingested_days"))
        await asyncio.sleep(0.05)
    assert not migrating.done()
    await connection.rollback()
    await migrating
    assert await _tables(engine) >= TABLES


OLD_QUERIES = {
    "recent": "SELECT last_day, last_week, last_month FROM packages WHERE name = 'package-7'"
    " AND last_seen > (SELECT max(day) FROM ingested_days) - 180",
    "publication": "SELECT array_agg(day ORDER BY day), max(published_at),"
    " encode(sha256(convert_to(string_agg(concat_ws(' ', day, digest), ',' ORDER BY day),"
    " 'UTF8')), 'hex'), (SELECT count(*) FROM held_days) "
    "FROM ingested_days WHERE day > (SELECT max(day) FROM ingested_days) - 180",
    "overall": "SELECT packages.name, of_package.* FROM packages, LATERAL ("
    " SELECT array_agg(date), array_agg(with_mirrors), array_agg(without_mirrors) FROM ("
    "  SELECT date, with_mirrors, without_mirrors FROM daily_downloads"
    "  WHERE package_id = packages.id AND date BETWEEN :first AND :last ORDER BY date) AS days"
    ") AS of_package WHERE name = ANY ('{package-7}') AND last_seen >= :first",
    "breakdown": "SELECT packages.name, of_package.* FROM packages, LATERAL ("
    " SELECT array_agg(date), string_agg(python_minor, ',') FROM ("
    "  SELECT date, CAST(python_minor AS text) AS python_minor FROM daily_downloads"
    "  WHERE package_id = packages.id AND date BETWEEN :first AND :last ORDER BY date) AS days"
    ") AS of_package WHERE name = ANY ('{package-7}') AND last_seen >= :first",
}
"""As the version of migration 0002 asks."""


async def test_the_version_before_answers_all_the_while(unmigrated_url: str) -> None:
    """None of its queries is ended, nor given up by readers of little patience."""
    engine = create_engine(unmigrated_url)
    await migrate(engine)
    rows = [downloads(f"package-{number}", 1 + number % 7) for number in range(3_000)]
    for ago in range(40, -1, -20):
        await publish(engine, days_ago(ago), *rows)
    await _downgrade(engine, "0002")
    served = create_engine(
        unmigrated_url, autocommit=True, statement_timeout_seconds=READERS_PATIENCE_SECONDS
    )
    answers = dict.fromkeys(OLD_QUERIES, 0)
    migrating = asyncio.Event()
    migrating.set()

    async def ask(name: str) -> None:
        arguments = {"first": days_ago(60), "last": days_ago(0)}
        while migrating.is_set():
            query = text(OLD_QUERIES[name])
            asked = arguments if ":first" in OLD_QUERIES[name] else None
            assert await fetch(served, query, asked)
            answers[name] += 1

    async with asyncio.TaskGroup() as readers:
        for name in [*OLD_QUERIES, *OLD_QUERIES]:
            readers.create_task(ask(name))
        await asyncio.sleep(0.2)
        await migrate(engine)
        migrating.clear()
    assert min(answers.values()) > 10
    await served.dispose()
    async for step in verify(engine, await days_to_verify(engine, None), packages=True):
        assert list(step.differences) == []
    await engine.dispose()


async def test_who_is_ended_in_between_goes_on_from_there(
    engine: AsyncEngine, connection: AsyncConnection
) -> None:
    await publish(engine, days_ago(0), downloads("flask", 1))
    before = await everything(engine)
    await _downgrade(engine, "0002")
    await connection.execute(text("SELECT * FROM held_days"))
    migrating = asyncio.create_task(migrate(engine))
    at = text("SELECT version_num FROM alembic_version")
    async with asyncio.timeout(10), connect(engine) as another:
        while await another.scalar(at) != "0003":
            await another.rollback()
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    migrating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await migrating
    assert await connection.scalar(at) == "0003"
    await connection.rollback()
    await migrate(engine)
    assert await everything(engine) == before


async def test_a_database_that_is_further_than_the_code(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(MigrationError, match="migrated to 9999, which is further"):
        await migrate(engine)


def test_the_migrations_folder_is_no_package() -> None:
    """It would shadow the library of the same name."""
    assert not (Path(ALEMBIC_INI).parent / "alembic" / "__init__.py").exists()
