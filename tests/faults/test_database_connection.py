"""Connections to Postgres that are cut in the middle of the ingest job, in every step of it: what
was not committed is gone, nothing more is published, and the next run does the rest.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random

import pytest

from app.db.engine import job_engine
from app.db.steps import Step
from app.domain.months import Period
from app.errors import DayTimeoutError
from app.ingest import runs, scheduler
from app.ingest.policy import policy_of
from app.ingest.publish import PublishContext
from app.ingest.runs import DayIngester, ingest_lock
from app.ingest.scheduler import run_ingest_job
from tests.clock import NOW
from tests.days import GivenSource, days_ago
from tests.faults.audit import RETENTION_DAYS, audit
from tests.faults.databases import copied, is_alone, state
from tests.faults.postgres import connect_to, through
from tests.faults.proxy import Proxy
from tests.faults.steps import Entered, each_step
from tests.faults.tally import Tally
from tests.faults.truth import rows
from tests.faults.world import COMMITS, GONE, IMPATIENT, Settled, World
from tests.waiting import until

RETENTION = (Step.DELETE_PACKAGES, Step.DROP, Step.COMMIT_RETENTION)


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
    """All connections are cut, or only that of the ingest lock. A process that has lost the lock
    commits nothing more, except for retention, which does not need it.
    """
    number = random.choice([n for n, entered in enumerate(world.steps) if entered is step])
    commits = world.commits_before(number)
    monkeypatch.setattr(scheduler, "open_source", lambda *_: world.source)

    def cut(entered: Entered) -> None:
        if entered.number != number:
            return
        if of_the_lock_alone:
            # It is taken before anything else.
            proxy.open_passages[0].cut()
            proxy.injected += 1
        else:
            proxy.cut()

    async with copied(server_url, world.database) as (url, engine):
        with each_step(cut):
            await run_ingest_job(IMPATIENT, through(proxy, url), lambda: NOW)
        assert proxy.injected
        tally.faults["connections to Postgres cut in a step"] += proxy.injected
        await until(lambda: is_alone(engine))
        found = await state(engine)
        if of_the_lock_alone and (step in COMMITS or step in RETENTION):
            # The server was asked for the lock just before.
            assert found == world.states[commits + 1]
        else:
            assert found == world.states[commits]
        await run_ingest_job(IMPATIENT, url, lambda: NOW + timedelta(minutes=1))
        assert await state(engine) == world.states[-1]
        await audit(tally, engine, url, world.published[-1], absent=[GONE])


async def test_a_day_times_out_while_postgres_is_away(
    settled: Settled,
    server_url: str,
    proxy: Proxy,
    tally: Tally,
    quick_retries: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only the lock's connection is left. The next day is still tried, and is published."""
    hanging, latest = days_ago(RETENTION_DAYS - 1), days_ago(0)

    class HangingSource(GivenSource):
        async def begin(self, day: Period) -> str | None:
            if day == hanging:
                for passage in proxy.open_passages[1:]:
                    passage.cut()
                # One connection with TLS, and one without.
                proxy.refusals = 2
                proxy.injected += 1
                # Patience with the next day.
                monkeypatch.setattr(runs, "DAY_TIMEOUT_SECONDS", 3600)
                await asyncio.sleep(3600)
            return await super().begin(day)

    source = HangingSource({latest: rows(settled.latest)})
    monkeypatch.setattr(runs, "DAY_TIMEOUT_SECONDS", 5.0)
    async with copied(server_url, settled.database) as (url, engine):
        async with job_engine(through(proxy, url)) as job, ingest_lock(job) as lock:
            ingester = DayIngester(
                PublishContext(job, policy_of(IMPATIENT), lambda: NOW, lock), source
            )
            timed_out, published = [outcome async for outcome in ingester.ingest([hanging, latest])]
        assert proxy.injected
        tally.faults["days that timed out while Postgres was away"] += 1
        assert isinstance(timed_out.error, DayTimeoutError)
        assert published.error is None
        assert "was not recorded" in caplog.text
        await audit(tally, engine, url, settled.complete)
