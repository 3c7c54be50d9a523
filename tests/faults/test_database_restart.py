"""Postgres that is killed, or that has no room left, in the middle of an ingest: what was published
is there after that, and nothing else; then the day is published.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect, create_engine, job_engine
from app.db.partitions import ensure_partition
from app.db.steps import Step
from app.errors import DatabaseUnavailableError, HeldDayError
from app.ingest import scheduler
from app.ingest.policy import policy_of
from app.ingest.publish import PublishContext
from app.ingest.runs import DayIngester, ingest_lock
from app.ingest.scheduler import run_ingest_job
from tests.clock import NOW, ManualClock
from tests.conftest import TEMPLATE
from tests.days import GivenSource, days_ago
from tests.faults.audit import RETENTION_DAYS, audit
from tests.faults.databases import copied, is_alone, state
from tests.faults.postgres import Server, own_server
from tests.faults.steps import Entered, each_step
from tests.faults.tally import Tally
from tests.faults.truth import made_up, rows
from tests.faults.world import IMPATIENT, Settled, publish_all, settled_days
from tests.waiting import until

STAGING_TABLES = 3

STEPS = (Step.STAGE, Step.ADD_UP, Step.PARTITION, Step.ROWS, Step.FIGURES, Step.COMMIT)
"""In which the server is killed, besides two at random."""

NO_ROOM = Path("/dev/full")
"""Every write to it finds the disk full."""


DISK_FULL = r"^[^\n]*No space left on device[^\n]*$"


async def test_the_server_is_killed_in_the_middle(
    data_dir: Path,
    tally: Tally,
    random: Random,
    quick_retries: None,
    monkeypatch: pytest.MonkeyPatch,
    clock: ManualClock,
) -> None:
    """As it ends it takes no leave of anybody, and what it left half done it has to clear away. The
    entry of a temporary table stays until somebody gets the same place: there are few places.
    """
    days = settled_days(random, range(RETENTION_DAYS))
    missing = days_ago(0)
    source = GivenSource({missing: rows(days[missing])})
    monkeypatch.setattr(scheduler, "open_source", lambda *_: source)
    async with own_server(data_dir) as server:
        engine = create_engine(server.url)
        await publish_all(engine, {day: days[day] for day in days if day != missing})
        before = await state(engine)
        left_over = 0
        others = [step for step in Step if step is not Step.HOLD and step is not Step.REPLACE]
        for step in (*STEPS, *random.sample(others[: others.index(Step.COMMIT)], 2)):
            killed: list[Step] = []
            clock.advance(minutes=1)
            with each_step(partial(kill_once, server, step, killed)):
                await run_ingest_job(IMPATIENT, server.url, clock)
            assert killed == [step]
            tally.faults["SIGQUIT of Postgres in a step"] += 1
            await server.start()
            # All its connections are dead.
            await engine.dispose()
            found = await state(engine)
            assert (found.contents, found.tables) == (before.contents, before.tables)
            left_over = max(left_over, len(found.temporary_tables))
        assert left_over <= 2 * STAGING_TABLES
        clock.advance(minutes=1)
        await run_ingest_job(IMPATIENT, server.url, clock)
        await audit(tally, engine, server.url, days)
        await engine.dispose()


def kill_once(server: Server, step: Step, killed: list[Step], entered: Entered) -> None:
    if entered.step is step and not killed:
        server.kill()
        killed.append(step)


@contextmanager
def no_room_for(file: Path) -> Iterator[None]:
    """Put a file without room in the place of an empty one."""
    empty = file.with_name(f"{file.name}.empty")
    assert file.stat().st_size == 0
    file.rename(empty)
    file.symlink_to(NO_ROOM)
    try:
        yield
    finally:
        file.unlink()
        empty.rename(file)


async def file_of(engine: AsyncEngine, table: str) -> Path:
    query = "SELECT current_setting('data_directory') || '/' || pg_relation_filepath(:table)"
    async with engine.connect() as connection:
        return Path(str(await connection.scalar(text(query), {"table": table})))


@pytest.mark.skipif(not NO_ROOM.exists(), reason=f"{NO_ROOM} is Linux's")
@pytest.mark.usefixtures("_template", "quick_retries")
@pytest.mark.parametrize("is_plausible", [True, False], ids=["published", "held"])
async def test_the_disk_is_full(
    is_plausible: bool, server_url: str, tally: Tally, random: Random
) -> None:
    """Where the day's rows go. The days before are in other months, and so in other files."""
    latest = days_ago(0)
    days = settled_days(random, range(31, 45))
    today = made_up(random, latest, 12)
    given = rows(today)
    if not is_plausible:
        given[0] = given[0]._replace(without_mirrors=given[0].without_mirrors + 1)
    source = GivenSource({latest: given})
    async with copied(server_url, TEMPLATE) as (url, engine):
        await publish_all(engine, days)
        async with connect(engine) as connection:
            await ensure_partition(connection, latest)
            await connection.commit()
        table = f"daily_downloads_{latest:%Y_%m}" if is_plausible else "held_downloads"
        before = await state(engine)

        async def ingest() -> None:
            async with job_engine(url) as job, ingest_lock(job) as lock:
                ingester = DayIngester(
                    PublishContext(job, policy_of(IMPATIENT), lambda: NOW, lock), source
                )
                await ingester.ingest_day(latest)

        with no_room_for(await file_of(engine, table)):
            with pytest.raises(DatabaseUnavailableError, match=DISK_FULL):
                await ingest()
            tally.faults["full disk"] += 1
        assert await state(engine) == before
        await audit(tally, engine, url, days)
        if is_plausible:
            await ingest()
            await audit(tally, engine, url, {**days, latest: today})
        else:
            with pytest.raises(HeldDayError):
                await ingest()
            await audit(tally, engine, url, days)


@pytest.mark.skipif(not NO_ROOM.exists(), reason=f"{NO_ROOM} is Linux's")
@pytest.mark.usefixtures("quick_retries")
async def test_the_disk_is_full_while_staging(
    server_url: str, settled: Settled, tally: Tally
) -> None:
    latest = days_ago(0)
    source = GivenSource({latest: rows(settled.latest)})
    async with copied(server_url, settled.database) as (url, engine):
        before = await state(engine)
        folder = (await file_of(engine, "packages")).parent

        async def ingest(fill: Callable[[Entered], None]) -> None:
            async with job_engine(url) as job, ingest_lock(job) as lock:
                ingester = DayIngester(
                    PublishContext(job, policy_of(IMPATIENT), lambda: NOW, lock), source
                )
                with each_step(fill):
                    await ingester.ingest_day(latest)

        def fill(entered: Entered) -> None:
            if entered.step is Step.READ:
                for file in [*folder.glob("t*_*")]:
                    if not file.is_symlink() and file.stat().st_size == 0:
                        # It goes with the connection.
                        file.unlink()
                        file.symlink_to(NO_ROOM)

        with pytest.raises(DatabaseUnavailableError, match=DISK_FULL):
            await ingest(fill)
        tally.faults["full disk"] += 1
        await until(lambda: is_alone(engine))
        assert await state(engine) == before
        await ingest(lambda _: None)
        await audit(tally, engine, url, settled.complete)
