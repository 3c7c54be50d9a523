"""SIGKILL in the middle of the ingest job, in every step of it and in between: the database is as
it was before a commit or as it is after, and the next run does the rest.
"""

import asyncio
import os
from random import Random
from signal import SIGKILL, SIGSTOP

import psutil
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.runs_repository import latest_runs
from app.db.steps import Step
from app.domain.downloads import RunOutcome
from app.ingest import scheduler
from app.ingest.scheduler import run_ingest_job
from tests.clock import NOW
from tests.faults.audit import audit, audit_months, audit_served
from tests.faults.child import At, running_job
from tests.faults.databases import copied, is_alone, state
from tests.faults.tally import Tally
from tests.faults.world import GONE, SETTINGS, World
from tests.waiting import until

ROUNDS = 50

RANDOM_ROUNDS = ROUNDS - len(Step)


@pytest.mark.parametrize("step", Step)
async def test_killed_in_a_step(
    step: Step,
    world: World,
    server_url: str,
    tally: Tally,
    random: Random,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And while the process stands still in it, holding whatever it holds, readers get what is
    published, at once. Only a month that is dropped keeps them waiting, from there to the commit.
    """
    number = random.choice([n for n, entered in enumerate(world.steps) if entered is step])
    commits = world.commits_before(number)
    async with copied(server_url, world.database) as (url, engine):
        with running_job(SETTINGS, url, world.source, At(number, SIGSTOP)) as child:
            process = psutil.Process(child.pid)
            await until(lambda: process.status() == psutil.STATUS_STOPPED)
            if step is not Step.COMMIT_RETENTION:
                await audit_served(tally, url, world.published[commits])
                tally.faults["processes stopped in a step while readers asked"] += 1
            assert child.pid
            os.kill(child.pid, SIGKILL)
            await asyncio.to_thread(child.join)
            assert child.exitcode == -SIGKILL
        tally.faults["SIGKILL in a step"] += 1
        await until(lambda: is_alone(engine))
        assert await state(engine) == world.states[commits]
        await finish(world, url, engine, tally, monkeypatch)


@pytest.mark.parametrize("_round", range(RANDOM_ROUNDS))
async def test_killed_at_any_moment(
    _round: int,
    world: World,
    server_url: str,
    tally: Tally,
    random: Random,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = random.randrange(len(world.steps))
    at = At(number, SIGKILL, random.uniform(0.0001, 0.005))
    commits = world.commits_before(number)
    async with copied(server_url, world.database) as (url, engine):
        with running_job(SETTINGS, url, world.source, at) as child:
            await asyncio.to_thread(child.join)
            # Unless it was faster.
            assert child.exitcode in (-SIGKILL, 0)
            tally.faults["SIGKILL at a random moment"] += child.exitcode == -SIGKILL
        await until(lambda: is_alone(engine))
        assert await state(engine) in world.states[commits:]
        await finish(world, url, engine, tally, monkeypatch)


async def finish(
    world: World, url: str, engine: AsyncEngine, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run does what is left, and leaves what all of it would have left in one run."""
    monkeypatch.setattr(scheduler, "open_source", lambda *_: world.source)
    await run_ingest_job(SETTINGS, url, lambda: NOW)
    assert await state(engine) == world.states[-1]
    await audit(tally, engine, url, world.published[-1], absent=[GONE])
    await audit_months(tally, engine, world.in_months)
    told = [run.outcome for run in await latest_runs(engine, 100)]
    assert RunOutcome.RUNNING not in told
    assert told.count(RunOutcome.INTERRUPTED) <= 1
    assert 3 <= len(told) <= 4
