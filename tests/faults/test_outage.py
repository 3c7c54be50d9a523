"""Postgres goes away under load, twice: its processes end, and later it is only silent. Every
answer is right, or right and marked stale, or a 503 that says when to come again; what was answered
before is answered on; and soon after Postgres is back all is as before.
"""

import asyncio
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from time import time

import httpx

from app.db.engine import create_engine
from app.serving.publication_watch import CHECK_SECONDS, STALE_AFTER_SECONDS
from app.settings import Settings
from tests.faults.audit import RETENTION_DAYS, check
from tests.faults.postgres import connect_to, own_server, through
from tests.faults.proxy import Proxy
from tests.faults.service import serving
from tests.faults.tally import Tally
from tests.faults.truth import PACKAGES, answers
from tests.faults.world import publish_all, settled_days
from tests.waiting import until

CLIENTS = 16

THINK_SECONDS = 0.02

AWAY_SECONDS = 5.0

SILENT_SECONDS = STALE_AFTER_SECONDS + 4.0
"""Duration of the silence: a little longer than until responses are marked as stale."""

CALM_SECONDS = 2.0
"""Time without a 503 after which the service counts as recovered."""

RECOVERY_SECONDS = 10.0
"""Maximum time from the return of Postgres to the last 503."""

REQUEST_TIMEOUT_SECONDS = Settings().request_timeout_seconds

SLACK_SECONDS = 3.0
"""Allowance for a busy machine."""


@dataclass(frozen=True)
class Sample:
    path: str
    is_hot: bool
    """True if the path was requested before the outage."""

    asked_at: float
    answered_at: float
    status: int
    age: int | None
    max_age: int | None


@dataclass
class Load:
    """Clients that ask, and compare, until told to stop."""

    client: httpx.AsyncClient
    truth: dict[str, object]
    tally: Tally
    random: Random
    samples: list[Sample] = field(default_factory=list)
    is_over: bool = False
    _numbers: "count[int]" = field(default_factory=count)

    async def ask(self, only_hot: bool) -> None:
        """Request paths that were requested before, or all kinds of paths."""
        hot = list(self.truth)
        while not self.is_over:
            if not only_hot and self.random.random() < 0.1:
                await self._ask("/ready", None)
            elif only_hot or self.random.random() < 0.5:
                path = self.random.choice(hot)
                await self._ask(path, self.truth[path], is_hot=True)
            else:
                # What matches nothing is kept by nobody.
                package = self.random.choice(PACKAGES)
                path = f"/api/packages/{package}/python_minor?version=9.{next(self._numbers)}"
                nothing = {"data": [], "package": package, "type": "python_minor_downloads"}
                await self._ask(path, nothing)
            await asyncio.sleep(THINK_SECONDS)

    async def _ask(self, path: str, truth: object, *, is_hot: bool = False) -> None:
        asked_at = time()
        response = await self.client.get(path)
        if truth is None:
            truth = response.json() if response.status_code == 200 else None
        check(self.tally, response, [{path: truth}], path)
        age = response.headers.get("age")
        control = response.headers.get("cache-control", "")
        max_age = control.partition("max-age=")[2].partition(",")[0]
        self.samples.append(
            Sample(
                path,
                is_hot,
                asked_at,
                time(),
                response.status_code,
                int(age) if age else None,
                int(max_age) if max_age else None,
            )
        )

    def since(self, moment: float) -> list[Sample]:
        return [sample for sample in self.samples if sample.asked_at >= moment]

    async def until_calm(self, returned_at: float) -> float:
        """Wait until all is well again; how long after its return the last 503 was asked for."""

        def last_failure() -> float:
            failed = [sample.answered_at for sample in self.samples if sample.status != 200]
            return max([returned_at, *failed])

        await until(lambda: time() - last_failure() > CALM_SECONDS)
        return last_failure() - returned_at


async def test_postgres_goes_away_under_load(
    data_dir: Path, tmp_path: Path, tally: Tally, random: Random
) -> None:
    days = settled_days(random, range(10))
    log = tmp_path / "log"
    async with (
        own_server(data_dir) as server,
        Proxy(connect_to(server.url)).listening() as proxy,
    ):
        engine = create_engine(server.url)
        await publish_all(engine, days)
        await engine.dispose()
        environment = {
            "DATABASE_URL": through(proxy, server.url),
            "INGEST_SOURCE": "none",
            "RETENTION_DAYS": str(RETENTION_DAYS),
            "REQUEST_LOG": "false",
        }
        timeout = REQUEST_TIMEOUT_SECONDS + SLACK_SECONDS
        async with (
            serving(data_dir, log, (), **environment) as address,
            httpx.AsyncClient(base_url=address, timeout=timeout) as client,
        ):
            load = Load(client, answers(days, RETENTION_DAYS), tally, random)
            for path in load.truth:
                (await client.get(path)).raise_for_status()
            asking = asyncio.gather(*(load.ask(number % 2 == 0) for number in range(CLIENTS)))
            await until(lambda: asking.done() or len(load.samples) > 500)
            assert {sample.status for sample in load.samples} == {200}

            server.kill()
            stopped_at = time()
            tally.faults["stops of Postgres under load"] += 1
            await asyncio.sleep(AWAY_SECONDS)
            await server.start()
            back_after = await load.until_calm(time())
            away = load.since(stopped_at)
            assert_well_answered(away)

            proxy.fall_silent()
            silent_at = time()
            tally.faults["silences of Postgres under load"] += 1
            await asyncio.sleep(SILENT_SECONDS)
            proxy.go_on()
            loud_after = await load.until_calm(time())
            silent = load.since(silent_at)
            assert_well_answered(silent)
            assert_marked_stale(silent, silent_at)

            load.is_over = True
            await asking
    assert back_after < RECOVERY_SECONDS
    assert loud_after < RECOVERY_SECONDS
    assert "Traceback" not in log.read_text()
    tally.notes += [
        f"Postgres away for {AWAY_SECONDS:g} s: {told(away, back_after)}",
        f"Postgres silent for {SILENT_SECONDS:g} s: {told(silent, loud_after)}",
    ]


def assert_well_answered(samples: list[Sample]) -> None:
    """Check that only requests that need Postgres return 503, within the time limit."""
    assert {sample.status for sample in samples if sample.is_hot} == {200}
    assert {sample.status for sample in samples} == {200, 503}
    longest = max(sample.answered_at - sample.asked_at for sample in samples)
    assert longest < REQUEST_TIMEOUT_SECONDS + SLACK_SECONDS


def assert_marked_stale(samples: list[Sample], since: float) -> None:
    """Once nothing is confirmed for so long, by the time that has passed since it was."""
    late = [
        sample
        for sample in samples
        if since + STALE_AFTER_SECONDS + 1 < sample.asked_at < since + SILENT_SECONDS - 1
        and sample.is_hot
    ]
    assert late
    for sample in samples:
        if sample.age is not None:
            assert sample.max_age is not None
            # A cached response is stale once its age has reached `max-age`.
            assert sample.age >= sample.max_age == STALE_AFTER_SECONDS
            assert sample.age <= sample.answered_at - since + CHECK_SECONDS + 1
    assert all(sample.age for sample in late)
    assert not samples[-1].age


def told(samples: list[Sample], recovery_seconds: float) -> str:
    served = sum(sample.status == 200 for sample in samples)
    stale = sum(sample.age is not None for sample in samples)
    slowest = max(sample.answered_at - sample.asked_at for sample in samples)
    return (
        f"{served:,} right ({stale:,} of them marked stale), {len(samples) - served:,} 503, "
        f"slowest {slowest:.1f} s; the last 503 came {recovery_seconds:.1f} s after its return"
    )
