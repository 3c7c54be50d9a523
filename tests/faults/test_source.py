"""A source that is slow, breaks off, sends fewer rows than it announced, or sends nonsense: the day
is published right, or not at all and with a reason, and a later run publishes it.

What no checksum covers can't be found out by whoever receives it: a letter of a name that became
another, a category that became another, a digit of `with_mirrors`. On the way from the real
BigQuery TLS covers every byte, and a byte that changes ends the connection: that is `cut_after`.
The emulator speaks plain HTTP, so that what would come through all the same can be put in here:
answers that are no JSON, rows that do not add up, counts of rows that are not right.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from google.cloud import bigquery
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.repositories.runs_repository import latest_runs
from app.domain.downloads import IngestRun, RunOutcome
from app.ingest.scheduler import run_ingest_job
from app.ingest.sources import bigquery as bigquery_source
from app.settings import IngestSource, Settings
from tests.bigquery_table import Table
from tests.clock import NOW
from tests.faults.audit import RETENTION_DAYS, audit
from tests.faults.databases import copied, state
from tests.faults.proxy import (
    FOREVER,
    Fault,
    Proxy,
    cut_after,
    delayed,
    rewritten,
    silence,
)
from tests.faults.tally import Tally
from tests.faults.world import Settled

QUERY = b"POST "
FIRST_PAGE = b"/queries/"
LATER_PAGE = b"pageToken="

PAGE_ROWS = 2
"""Rows per page. The six packages of a day come in three pages."""

RANDOM_ROUNDS = 12

PATIENCE_SECONDS = 4.0


@pytest.fixture(scope="module")
def table(emulator_client: bigquery.Client, settled: Settled) -> Table:
    table = Table(emulator_client)
    table.insert(*settled.latest)
    return table


@pytest.fixture
async def proxy(emulator_host: str) -> AsyncIterator[Proxy]:
    port = int(emulator_host.rpartition(":")[2])
    async with Proxy(lambda: asyncio.open_connection("127.0.0.1", port)).listening() as proxy:
        yield proxy


@pytest.fixture
def settings(
    table: Table, proxy: Proxy, quick_retries: None, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Use shorter time limits than in production, and longer ones than a slow machine needs."""
    monkeypatch.setattr(bigquery_source, "PAGE_ROWS", PAGE_ROWS)
    monkeypatch.setattr(bigquery_source, "RETRY_FOR_SECONDS", 0.5)
    monkeypatch.setattr(bigquery_source, "CALL_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(bigquery_source, "QUERY_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    return Settings(
        bigquery_emulator_host=f"http://127.0.0.1:{proxy.port}",
        bigquery_table=table.id,
        ingest_source=IngestSource.BIGQUERY,
        ingest_schedule="0 0 * * *",
        ingest_retry_after_minutes=1e-6,
        retention_days=RETENTION_DAYS,
        rate_limits="",
    )


def changed(change: Callable[[Any], None]) -> Fault:
    """An answer with rows of the day that is right but for this."""

    def rewrite(body: bytes) -> bytes:
        answer = json.loads(body)
        # A row of the day is one text, and one of partition metadata has two values.
        rows = answer.get("rows", [])
        if rows and len(rows[0]["f"]) == 1:
            change(answer)
        return json.dumps(answer).encode()

    return rewritten(rewrite)


def lose_a_row(answer: Any) -> None:
    answer["rows"].pop()


def announce_more(answer: Any) -> None:
    answer["totalRows"] = str(int(answer["totalRows"]) + 1)


def announce_nonsense(answer: Any) -> None:
    answer["totalRows"] = "many"


def lose_the_announcement(answer: Any) -> None:
    del answer["totalRows"]


def end_early(answer: Any) -> None:
    answer.pop("pageToken", None)


def lose_the_rows(answer: Any) -> None:
    del answer["rows"]


def change_value(answer: Any, place: int, change: Callable[[str], str]) -> None:
    """Change a value of the first row, which ends with the package."""
    cell = answer["rows"][0]["f"][0]
    values = cell["v"].split("\t")
    values[place] = change(values[place])
    cell["v"] = "\t".join(values)


def lose_a_number(answer: Any) -> None:
    change_value(answer, 0, lambda _: "many")


def lose_a_column(answer: Any) -> None:
    cell = answer["rows"][0]["f"][0]
    cell["v"] = cell["v"].partition("\t")[2]


def repeat_a_row(answer: Any) -> None:
    answer["rows"][-1] = answer["rows"][0]


def change_a_digit(answer: Any) -> None:
    change_value(answer, 1, lambda downloads: str(int(downloads) + 1))


def lose_a_category(answer: Any) -> None:
    change_value(answer, 2, lambda counts: counts.rpartition(",")[0])


def garble_a_category(answer: Any) -> None:
    change_value(answer, 2, lambda counts: counts.replace(":", "=", 1))


@dataclass(frozen=True)
class Case:
    what: str
    fault: Fault | None
    """None: connections are closed at once."""

    of: bytes = b""
    times: int = FOREVER
    reason: str | None = None
    """A part of what is recorded; None when the day is published all the same."""

    outcome: RunOutcome = RunOutcome.FAILED

    def __str__(self) -> str:
        return self.what


ERROR_500 = rewritten(lambda _: b'{"error": {"message": "oops"}}', b"500 Internal Server Error")
ERROR_503 = rewritten(lambda _: b"try again later", b"503 Service Unavailable")
ERROR_403 = rewritten(lambda _: b'{"error": {"message": "not you"}}', b"403 Forbidden")

# The first query is that of the partition's metadata.
PASSING = [
    Case("each answer is slow", delayed(0.2)),
    Case("the query breaks off", cut_after(0.5), QUERY, 2),
    Case("the query's answer is lost", cut_after(0), QUERY, 2),
    Case("the first page breaks off", cut_after(0.9), FIRST_PAGE, 1),
    Case("a later page breaks off", cut_after(0.9), LATER_PAGE, 1),
    Case("a later page is lost twice", cut_after(0), LATER_PAGE, 2),
    Case("a later page does not come", silence, LATER_PAGE, 1),
    Case("the server is silent twice", silence, QUERY, 2),
    Case("connections are refused for a while", None, times=3),
    Case("the server fails once", ERROR_500, FIRST_PAGE, 1),
    Case("the server is busy for a while", ERROR_503, LATER_PAGE, 2),
    Case("a row is lost once", changed(lose_a_row), LATER_PAGE, 1),
    Case("a page ends too early once", changed(end_early), LATER_PAGE, 1),
    Case("a page has no rows once", changed(lose_the_rows), LATER_PAGE, 1),
]

LASTING = [
    Case("all pages break off", cut_after(0.7), LATER_PAGE, reason="BigQuery: "),
    Case("all connections are refused", None, reason="BigQuery: "),
    Case("no page ever comes", silence, LATER_PAGE, reason="no answer within"),
    Case("the server keeps failing", ERROR_500, reason="BigQuery: "),
    Case("the server says no", ERROR_403, QUERY, reason="BigQuery: "),
    Case("rows are lost", changed(lose_a_row), LATER_PAGE, reason="announced 6 rows and sent"),
    Case("more is announced", changed(announce_more), FIRST_PAGE, reason="announced"),
    Case(
        "nonsense is announced", changed(announce_nonsense), FIRST_PAGE, reason="malformed response"
    ),
    Case(
        "nothing is announced",
        changed(lose_the_announcement),
        FIRST_PAGE,
        reason="malformed response",
    ),
    Case("a number is none", changed(lose_a_number), FIRST_PAGE, reason="malformed response"),
    Case("a column is lost", changed(lose_a_column), FIRST_PAGE, reason="malformed response"),
    Case("a row comes twice", changed(repeat_a_row), LATER_PAGE, reason="more than once"),
    Case(
        "a row does not add up",
        changed(change_a_digit),
        LATER_PAGE,
        reason="does not add up",
        outcome=RunOutcome.HELD,
    ),
    Case(
        "a category is lost",
        changed(lose_a_category),
        LATER_PAGE,
        reason="does not add up",
        outcome=RunOutcome.HELD,
    ),
    Case(
        "a category is garbled",
        changed(garble_a_category),
        LATER_PAGE,
        reason="python_minor is not an object",
        outcome=RunOutcome.HELD,
    ),
]


@pytest.mark.parametrize("case", [*PASSING, *LASTING], ids=str)
async def test_a_day_is_published_correctly_or_not_at_all(
    case: Case,
    server_url: str,
    settled: Settled,
    settings: Settings,
    proxy: Proxy,
    tally: Tally,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with copied(server_url, settled.database) as (url, engine):
        before = await state(engine)
        if case.fault:
            proxy.arm(case.fault, case.of, case.times)
        else:
            proxy.refusals = case.times
        await run_ingest_job(settings, url, lambda: NOW)
        assert proxy.injected
        tally.faults["faults of the source"] += proxy.injected
        run = await last_run(engine)
        if case.reason is None:
            assert run.outcome is RunOutcome.PUBLISHED, run.error
        else:
            assert run.outcome is case.outcome
            assert case.reason in (run.error or "")
            assert "\n" not in (run.error or "")
            after = await state(engine)
            assert after.contents["days"] == before.contents["days"]
            assert after.contents["rows"] == before.contents["rows"]
            await audit(tally, engine, url, settled.days)
            proxy.disarm()
            await run_ingest_job(settings, url, lambda: NOW + timedelta(minutes=1))
        await audit(tally, engine, url, settled.complete)
    assert_told_without_traces(caplog)


async def test_random_bytes(
    server_url: str,
    settled: Settled,
    settings: Settings,
    proxy: Proxy,
    tally: Tally,
    random: Random,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One byte of an answer becomes a zero, which JSON has nowhere: the source is asked again."""

    def spoil(body: bytes) -> bytes:
        place = random.randrange(len(body))
        return body[:place] + b"\0" + body[place + 1 :]

    for _ in range(RANDOM_ROUNDS):
        async with copied(server_url, settled.database) as (url, engine):
            proxy.disarm()
            proxy.arm(rewritten(spoil), random.choice([QUERY, FIRST_PAGE, LATER_PAGE]), 1)
            await run_ingest_job(settings, url, lambda: NOW)
            assert (await last_run(engine)).outcome is RunOutcome.PUBLISHED
            await audit(tally, engine, url, settled.complete)
    assert proxy.injected == RANDOM_ROUNDS
    tally.faults["random bytes of the source's answers"] += proxy.injected
    assert_told_without_traces(caplog)


async def last_run(engine: AsyncEngine) -> IngestRun:
    (run,) = await latest_runs(engine, 1)
    return run


def assert_told_without_traces(caplog: pytest.LogCaptureFixture) -> None:
    records: Iterable[Any] = caplog.records
    assert [record for record in records if record.exc_info] == []
