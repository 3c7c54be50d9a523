"""A day that lands in the source in parts: nothing of it is served before it is all there, and what
still comes after that is added once.
"""

from datetime import timedelta
from random import Random

import pytest
from google.cloud import bigquery
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.runs_repository import latest_runs
from app.db.tables import ingested_days
from app.domain.downloads import RunOutcome
from app.ingest.scheduler import run_ingest_job
from app.settings import IngestSource, Settings
from tests.bigquery_table import Table
from tests.clock import ManualClock
from tests.days import days_ago
from tests.faults.audit import RETENTION_DAYS, audit
from tests.faults.databases import copied
from tests.faults.tally import Tally
from tests.faults.world import Settled

SHARES = (0.15, 0.35, 0.95)
"""Shares of the day's downloads at each reading: too few, still too few, nearly all."""


@pytest.fixture
def table(emulator_client: bigquery.Client) -> Table:
    return Table(emulator_client)


async def test_a_day_in_three_parts_and_a_straggler(
    server_url: str,
    settled: Settled,
    emulator_host: str,
    table: Table,
    tally: Tally,
    random: Random,
    clock: ManualClock,
) -> None:
    settings = Settings(
        bigquery_emulator_host=emulator_host,
        bigquery_table=table.id,
        ingest_source=IngestSource.BIGQUERY,
        ingest_schedule="0 0 * * *",
        ingest_retry_after_minutes=1e-6,
        ingest_recheck_after_hours=1e-6,
        retention_days=RETENTION_DAYS,
        rate_limits="",
    )
    events = list(settled.latest)
    random.shuffle(events)
    async with copied(server_url, settled.database) as (url, engine):

        async def read_again(outcome: RunOutcome) -> None:
            clock.advance(minutes=1)
            await run_ingest_job(settings, url, clock)
            assert (await latest_runs(engine, 1))[0].outcome is outcome

        landed = 0
        for share in SHARES:
            end = int(len(events) * share)
            table.insert(*events[landed:end])
            landed = end
            tally.faults["parts of a day that landed late"] += 1
            is_all = share == SHARES[-1]
            await read_again(RunOutcome.PUBLISHED if is_all else RunOutcome.HELD)
            today = {days_ago(0): events[:landed]} if is_all else {}
            await audit(tally, engine, url, {**settled.days, **today})

        # Whoever reads it within a day of its end reads it once more after that.
        await read_early(engine)
        await read_again(RunOutcome.UNCHANGED)
        await audit(tally, engine, url, {**settled.days, days_ago(0): events[:landed]})
        await read_early(engine)
        table.insert(*events[landed:])
        tally.faults["parts of a day that landed late"] += 1
        await read_again(RunOutcome.PUBLISHED)
        await audit(tally, engine, url, settled.complete)


async def read_early(engine: AsyncEngine) -> None:
    """Record that the day was read before it was over."""
    async with engine.begin() as connection:
        await connection.execute(
            update(ingested_days)
            .values(checked_at=ingested_days.c.checked_at - timedelta(days=1))
            .where(ingested_days.c.day == days_ago(0))
        )
