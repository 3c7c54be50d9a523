"""Connections to Postgres that are cut in the middle of the ingest job, in every step of it: what
was not committed is gone, nothing more is published, and the next run does the rest.
"""

from collections.abc import AsyncIterator
from random import Random

import pytest

from app.clock import utc_now
from app.db.steps import Step
from app.ingest import scheduler
from app.ingest.scheduler import run_ingest_job
from tests.faults.audit import audit
from tests.faults.databases import copied, is_alone, state
from tests.faults.postgres import connect_to, through
from tests.faults.proxy import Proxy
from tests.faults.steps import Entered, each_step
from tests.faults.tally import Tally
from tests.faults.world import COMMITS, GONE, IMPATIENT, World
from tests.waiting import until

RETENTION = (Step.FORGET, Step.DROP, Step.COMMIT_RETENTION)


@pytest.fixture
async def proxy(server_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(connect_to(server_url)).listening() as proxy:
        yield proxy


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("of_the_lock_alone", [False, True], ids=["all", "the lock's"])
async def test_cut_in_a_step(
    step: Step,
    of_the_lock_alone: bool,
    world: World,
    server_url: str,
    proxy: Proxy,
    tally: Tally,
    random: Random,
    quick_retries: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All connections, or that alone which keeps others from ingesting: who has lost it goes on to
    no further commit, but for retention, which needs no such lock.
    """
    number = random.choice([n for n, entered in enumerate(world.steps) if entered is step])
    commits = world.commits_before(number)
    monkeypatch.setattr(scheduler, "open_source", lambda *_: world.source)

    def cut(entered: Entered) -> None:
        if entered.number != number:
            return
        if of_the_lock_alone:
            # It is taken before anything else.
            proxy.passages[0].cut()
            proxy.injected += 1
        else:
            proxy.cut()

    async with copied(server_url, world.database) as (url, engine):
        with each_step(cut):
            await run_ingest_job(IMPATIENT, through(proxy, url), utc_now)
        assert proxy.injected
        tally.faults["connections to Postgres cut in a step"] += proxy.injected
        await until(lambda: is_alone(engine))
        found = await state(engine)
        if of_the_lock_alone and (step in COMMITS or step in RETENTION):
            # The server was asked for the lock just before.
            assert found == world.states[commits + 1]
        else:
            assert found == world.states[commits]
        await run_ingest_job(IMPATIENT, url, utc_now)
        assert await state(engine) == world.states[-1]
        await audit(tally, engine, url, world.published[-1], absent=[GONE])
