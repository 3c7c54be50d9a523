"""Headers describe the body, whatever is published while it is computed, and whichever replica it
comes from.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import cycle
from random import Random
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import make_url

from app.db.statements import PublishedReads
from app.domain.clock import utc_now
from app.main import create_app
from app.settings import IngestSource, Settings
from tests.clock import ManualClock
from tests.days import days_ago
from tests.faults.audit import RETENTION_DAYS, check
from tests.faults.databases import copied, database_of
from tests.faults.tally import Tally
from tests.faults.truth import Days, answers
from tests.faults.world import Settled, publish_all
from tests.waiting import until

SETTINGS = Settings(
    rate_limits="",
    ingest_source=IngestSource.NONE,
    retention_days=RETENTION_DAYS,
    request_log=False,
)

ROUNDS = 5
"""How often each path is asked for with replicas in different states."""


@dataclass
class Reader:
    """A client that compares each response with what its headers say of it."""

    client: httpx.AsyncClient
    tally: Tally
    truth: dict[date, dict[str, object]]
    """The right answers by the latest published day."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    """Bodies by their tag."""

    tags: dict[str, str] = field(default_factory=dict)
    """The latest tag of each path."""

    modified: dict[str, set[date]] = field(default_factory=dict)
    """The latest days that a `Last-Modified` was seen with."""

    async def ask(self, path: str) -> date:
        """Ask with the tag that is known. Return the latest published day by the response."""
        tag = self.tags.get(path)
        headers = {"if-none-match": tag} if tag else {}
        response = await self.client.get(path, headers=headers)
        latest = date.fromisoformat(response.headers["x-data-as-of"])
        self.modified.setdefault(response.headers["last-modified"], set()).add(latest)
        if response.status_code == 304:
            assert tag
            response = httpx.Response(200, content=self.bodies[tag])
        else:
            self.tags[path] = response.headers["etag"]
            body = self.bodies.setdefault(response.headers["etag"], response.content)
            assert body == response.content
        check(self.tally, response, [self.truth[latest]], path)
        return latest

    def assert_unambiguous(self) -> None:
        assert all(len(days) == 1 for days in self.modified.values())


@asynccontextmanager
async def reading(database_url: str, days: Days, tally: Tally) -> AsyncIterator[Reader]:
    """A service, and a client that knows the right answers without the latest day, and with it."""
    before = {day: events for day, events in days.items() if day != days_ago(0)}
    truth = {max(served): answers(served, RETENTION_DAYS) for served in (before, days)}
    # After every publish, so that responses have a `Last-Modified`.
    clock = ManualClock(utc_now() + timedelta(hours=1))
    app = create_app(SETTINGS, database_url, clock)
    transport = httpx.ASGITransport(app)
    async with (
        app.running(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await until(lambda: app.dispatcher.publication_watch.publication)
        yield Reader(client, tally, truth)


async def test_a_publish_during_slow_responses(
    server_url: str, settled: Settled, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = PublishedReads._read
    waiting = 0
    is_published = asyncio.Event()

    async def read_slowly(*arguments: Any, **named: Any) -> Any:
        nonlocal waiting
        rows = await read(*arguments, **named)
        waiting += 1
        await is_published.wait()
        return rows

    monkeypatch.setattr(PublishedReads, "_read", read_slowly)
    async with (
        copied(server_url, settled.database) as (url, engine),
        reading(url, settled.complete, tally) as reader,
    ):
        paths = list(reader.truth[days_ago(1)])
        asking = asyncio.gather(*map(reader.ask, paths))
        await until(lambda: asking.done() or waiting == len(paths))
        await publish_all(engine, {days_ago(0): settled.latest})
        tally.faults["publishes during a slow response"] += len(paths)

        async def is_heard_of() -> bool:
            response = await reader.client.get("/")
            return bool(response.json()["data_as_of"] == str(days_ago(0)))

        await until(is_heard_of)
        is_published.set()
        assert set(await asking) == {days_ago(1)}
        for path in paths:
            assert await reader.ask(path) == days_ago(0)
        reader.assert_unambiguous()


@pytest.mark.parametrize("is_listener_ahead", [True, False])
async def test_replicas_in_different_states(
    server_url: str, settled: Settled, tally: Tally, random: Random, is_listener_ahead: bool
) -> None:
    """They share an address: each connection is to another one. The first one listens."""
    async with (
        copied(server_url, settled.database) as (behind, _),
        copied(server_url, settled.database) as (ahead, engine),
    ):
        await publish_all(engine, {days_ago(0): settled.latest})
        names = [database_of(behind), database_of(ahead)]
        replicas = cycle(reversed(names) if is_listener_ahead else names)

        connect = asyncpg.connect

        async def connect_to_next(**arguments: Any) -> Any:
            if arguments["database"] == "replicas":
                arguments["database"] = next(replicas)
            return await connect(**arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncpg, "connect", connect_to_next)
            url = make_url(behind).set(database="replicas")
            address = url.render_as_string(hide_password=False)
            async with reading(address, settled.complete, tally) as reader:
                paths = list(reader.truth[days_ago(1)]) * ROUNDS
                random.shuffle(paths)
                seen: set[date] = set()
                for number in range(0, len(paths), 20):
                    some = paths[number : number + 20]
                    seen.update(await asyncio.gather(*map(reader.ask, some)))
                assert seen == {days_ago(0), days_ago(1)}
                reader.assert_unambiguous()
                tally.faults["replicas in different states"] += 1
