"""A database in which one run of the ingest job comes through every step there is: a day to hold,
one to publish, one to replace, months to roll up and to delete, the days of a month to drop and a
package to forget.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random
from unittest.mock import patch

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import job_engine
from app.db.steps import Step
from app.db.tables import ingested_days
from app.ingest import scheduler
from app.ingest.policy import policy_of
from app.ingest.publish import PublishContext
from app.ingest.retention import expire
from app.ingest.rollup import months_of, roll_up, roll_up_due
from app.ingest.runs import DayIngester, ingest_lock, published_days
from app.ingest.scheduler import run_ingest_job
from app.settings import IngestSource, Settings
from tests.bigquery_table import Event
from tests.clock import NOW
from tests.conftest import TEMPLATE
from tests.days import GivenSource, days_ago, ingest
from tests.faults.audit import RETENTION_DAYS
from tests.faults.databases import State, copied, database_of, state
from tests.faults.steps import Entered, each_step
from tests.faults.truth import Days, made_up, rows

KEEP_MONTHS = 2
"""The job stores September and October, and deletes August."""

SETTINGS = Settings(
    ingest_source=IngestSource.SAMPLE,
    ingest_schedule="0 0 * * *",
    ingest_retry_after_minutes=24 * 60,
    retention_days=RETENTION_DAYS,
    keep_months=KEEP_MONTHS,
    rate_limits="",
)
"""The schedule fires at midnight, so that the day before is always due."""

IMPATIENT = SETTINGS.model_copy(update={"ingest_retry_after_minutes": 1e-6})
"""Failed and held days are due again at once."""

GONE = "left-pad"
"""A package that was downloaded once, in a month that is not kept."""

COMMITS = (Step.COMMIT, Step.COMMIT_MONTH, Step.COMMIT_RETENTION)


@dataclass(frozen=True)
class World:
    database: str
    """Name of the database before the run, to copy."""

    source: GivenSource
    """The source of the run."""

    published: Sequence[Days]
    """The published days before the run, and after each of its commits."""

    in_months: Days
    """The downloads in the stored months after the run."""

    states: Sequence[State]
    """The content of the database at each of these times."""

    steps: Sequence[Step]
    """All that the run comes through, in order."""

    def commits_before(self, step: int) -> int:
        """How many there were when this step, counted from 0, begins."""
        return sum(entered in COMMITS for entered in self.steps[:step])


def settled_days(random: Random, ago: Sequence[int]) -> dict[date, list[Event]]:
    return {days_ago(number): made_up(random, days_ago(number), 12) for number in ago}


@dataclass(frozen=True)
class Settled:
    """A database in which only the latest day is missing."""

    database: str
    """Name of the database to copy."""

    days: Days
    latest: Sequence[Event]
    """The downloads of the missing day."""

    @property
    def complete(self) -> Days:
        return {**self.days, days_ago(0): self.latest}


@asynccontextmanager
async def settled_database(server_url: str, random: Random) -> AsyncIterator[Settled]:
    days = settled_days(random, range(RETENTION_DAYS))
    latest = days.pop(days_ago(0))
    async with copied(server_url, TEMPLATE) as (url, engine):
        await publish_all(engine, days)
        await engine.dispose()
        yield Settled(database_of(url), days, latest)


async def publish_all(engine: AsyncEngine, days: Days) -> None:
    """Oldest first, as they are."""
    for day in sorted(days):
        source = GivenSource({day: rows(days[day])})
        await ingest(engine, source, day, replace(policy_of(SETTINGS), force=True))


@asynccontextmanager
async def made(server_url: str, random: Random) -> AsyncIterator[World]:
    """Publishes what is published before the run, and does what the run does to a copy of that, one
    commit after the other.
    """
    gone, old = days_ago(100), days_ago(80)
    days = settled_days(random, range(1, 30))
    grown = days[days_ago(2)]
    events = days | {days_ago(0): made_up(random, days_ago(0), 2)}
    source = GivenSource({day: rows(events[day]) for day in sorted(events)})
    before = {
        gone: [Event(project=GONE)],
        old: made_up(random, old, 12),
        **{day: days[day] for day in days if day != days_ago(1)},
        days_ago(2): [event for number, event in enumerate(grown) if number % 12 < 10],
    }
    async with copied(server_url, TEMPLATE) as (url, engine):
        await publish_all(engine, before)
        context = PublishContext(engine, policy_of(SETTINGS), lambda: NOW)
        august = months_of(await published_days(engine))[0]
        assert await roll_up(context, august)
        async with engine.begin() as connection:
            # As if it had been read before it was over.
            await connection.execute(
                update(ingested_days)
                .where(ingested_days.c.day == days_ago(2))
                .values(checked_at=ingested_days.c.checked_at - timedelta(days=10))
            )
        # A database that is copied has to have no connection.
        await engine.dispose()
        database = database_of(url)
        entered = await _followed(server_url, database, source)
        order = [one.day for one in entered if one.step is Step.READ]
        assert sorted(order) == [days_ago(2), days_ago(1), days_ago(0)]
        published: list[Days] = [before]
        for day in order:
            # The latest one is held.
            published.append({**published[-1], **({day: days[day]} if day in days else {})})
        # September and October are rolled up, which leave the window.
        published += [published[-1]] * 2
        published.append(days)
        states = await _states(server_url, database, source, order)
        october = {day: events for day, events in days.items() if day.month == old.month + 1}
        in_months = {old: before[old], **october}
        steps = [one.step for one in entered]
        yield World(database, source, published, in_months, states, steps)


async def _followed(server_url: str, database: str, source: GivenSource) -> list[Entered]:
    """All that the job comes through."""
    entered: list[Entered] = []
    async with copied(server_url, database) as (url, _):
        with (
            patch.object(scheduler, "open_source", lambda *_: source),
            each_step(entered.append),
        ):
            await run_ingest_job(SETTINGS, url, lambda: NOW)
    return entered


async def _states(
    server_url: str, database: str, source: GivenSource, days: Sequence[date]
) -> list[State]:
    """Return the states before the first day, after each day, and after retention."""
    async with copied(server_url, database) as (url, engine), job_engine(url) as job:
        states = [await state(engine)]
        async with ingest_lock(job) as lock:
            policy = replace(policy_of(SETTINGS), only_if_changed=True)
            ingester = DayIngester(PublishContext(job, policy, lambda: NOW, lock), source)
            async for _ in ingester.ingest(days):
                states.append(await state(engine))  # noqa: PERF401 - one after each day
            async for _ in roll_up_due(ingester.context, SETTINGS):
                states.append(await state(engine))  # noqa: PERF401 - one after each month
            await expire(job, policy, NOW)
            states.append(await state(engine))
    # A run's own staging goes with its connection.
    return [state._replace(temporary_tables=[]) for state in states]
