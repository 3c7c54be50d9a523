"""Four replicas, one of them with four workers, find twenty days missing at the same time. Each day
is published once, also when two of the processes are killed, and every answer is right for the days
that were published when it was given.
"""

import asyncio
import pickle
import sys
from collections import defaultdict
from contextlib import suppress
from datetime import date
from pathlib import Path
from random import Random

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.runs_repository import latest_runs
from app.db.steps import Step
from app.domain.downloads import RunOutcome
from tests.conftest import TEMPLATE
from tests.days import GivenSource, days_ago
from tests.faults.audit import RETENTION_DAYS, audit, check, stored
from tests.faults.databases import copied
from tests.faults.replica import KILLS, SOURCE, kill_at
from tests.faults.service import serving
from tests.faults.tally import Tally
from tests.faults.truth import Days, answers, rows
from tests.faults.world import publish_all, settled_days
from tests.processes import run
from tests.waiting import until

WORKERS = ("4", "1", "1", "1")
"""Number of workers of each replica."""

MISSING_DAYS = 20


@pytest.mark.usefixtures("_template")
async def test_replicas_race(
    server_url: str,
    data_dir: Path,
    tmp_path: Path,
    tally: Tally,
    random: Random,
) -> None:
    days = settled_days(random, range(RETENTION_DAYS))
    missing = [days_ago(ago) for ago in range(MISSING_DAYS)]
    source = tmp_path / "source"
    source.write_bytes(pickle.dumps(GivenSource({day: rows(days[day]) for day in missing})))
    kills = tmp_path / "kills"
    kills.mkdir()
    # Latest first: one in the middle of staging, one in the middle of a publish.
    killed = {
        missing[random.randrange(2, 8)]: Step.STAGE,
        missing[random.randrange(10, 18)]: random.choice([Step.ROWS, Step.FIGURES, Step.COMMIT]),
    }
    for day, step in killed.items():
        (kills / kill_at(day, step)).touch()
    async with copied(server_url, TEMPLATE) as (url, engine):
        await publish_all(engine, {day: days[day] for day in days if day not in missing})
        environment = {
            "DATABASE_URL": url,
            "INGEST_SOURCE": "bigquery",
            "INGEST_SCHEDULE": "0 0 * * *",
            "INGEST_MAX_DAYS_PER_RUN": str(MISSING_DAYS),
            "RETENTION_DAYS": str(RETENTION_DAYS),
            "REQUEST_LOG": "false",
            SOURCE: str(source),
            KILLS: str(kills),
        }
        is_over = asyncio.Event()

        async def replica(number: int, workers: str) -> None:
            log = tmp_path / f"log-{number}"
            before = (sys.executable, "-m", "tests.faults.replica")
            async with serving(data_dir, log, before, WORKERS=workers, **environment) as address:
                await watch(address, days, missing, tally, is_over)

        racing = asyncio.gather(*(replica(*one) for one in enumerate(WORKERS)))
        try:
            await until(lambda: racing.done() or all_published(engine, days))
        finally:
            is_over.set()
            await racing
        assert list(kills.iterdir()) == []
        tally.faults["SIGKILL of a replica"] += len(killed)

        await audit(tally, engine, url, days)
        outcomes = defaultdict(list)
        for told in await latest_runs(engine, 1000):
            outcomes[told.day].append(told.outcome)
        assert outcomes.keys() == set(missing)
        for day in missing:
            interrupted = [RunOutcome.INTERRUPTED] if day in killed else []
            assert outcomes[day] == [RunOutcome.PUBLISHED, *interrupted]
        verified = await asyncio.to_thread(run, "verify", DATABASE_URL=url)
        assert verified.returncode == 0, verified.stdout


async def all_published(engine: AsyncEngine, days: Days) -> bool:
    return (await stored(engine))[0] == days.keys()


async def watch(
    address: str, days: Days, missing: list[date], tally: Tally, is_over: asyncio.Event
) -> None:
    """Ask one of the replicas, until all is published and it knows that; or until it was killed,
    and answers nothing.
    """
    states = [
        answers({day: days[day] for day in days if day not in missing[published:]}, RETENTION_DAYS)
        for published in range(len(missing) + 1)
    ]
    final = states[-1]
    async with httpx.AsyncClient(base_url=address) as client:

        async def is_final() -> bool:
            found = [(await client.get(path)).json() == truth for path, truth in final.items()]
            return all(found)

        with suppress(httpx.TransportError):
            while not is_over.is_set():
                for path in final:
                    check(tally, await client.get(path), states, path)
                    await asyncio.sleep(0.02)
            await until(is_final)
