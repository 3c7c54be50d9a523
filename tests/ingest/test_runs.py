"""Days that are asked of a source one after another: who may, what is tried again, what is kept of
it.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import ClassVar

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import retries
from app.db.advisory_lock import LockKey
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.runs_repository import RunsRepository, latest_runs
from app.db.tables import held_days
from app.domain.breakdowns import BREAKDOWN_COLUMNS, REQUIRED_COLUMNS
from app.domain.downloads import (
    IngestRun,
    PackageDownloads,
    PublishedDay,
    RecentDownloads,
    RunOutcome,
)
from app.domain.months import Period
from app.errors import (
    DatabaseUnavailableError,
    DayTimeoutError,
    HeldDayError,
    IngestError,
    LockLostError,
    MixedDataError,
    QueryLostError,
    SourceError,
    SourceUnavailableError,
)
from app.ingest import runs
from app.ingest.plan import days_to_backfill, days_to_seed
from app.ingest.policy import PublishPolicy
from app.ingest.publish import PublishContext, publish_plausible_held
from app.ingest.runs import DayIngester, DayResult, ingest_lock, published_days
from app.ingest.sources.sample import SampleSource
from app.ingest.sources.source import DayRows, Source
from tests.clock import NOW, ManualClock
from tests.contents import everything
from tests.days import FORCED, POLICY, RETENTION_DAYS, GivenSource, days_ago, downloads, publish
from tests.waiting import until

MONTH = replace(POLICY, retention_days=30)


def repository(engine: AsyncEngine) -> DownloadsRepository:
    return DownloadsRepository(engine, RETENTION_DAYS)


async def ingest(
    engine: AsyncEngine,
    source: Source,
    days: Iterable[date],
    *,
    policy: PublishPolicy = FORCED,
) -> list[DayResult]:
    async with ingest_lock(engine) as lock:
        ingester = DayIngester(PublishContext(engine, policy, lambda: NOW, lock), source)
        return [outcome async for outcome in ingester.ingest(days)]


async def history(engine: AsyncEngine) -> list[IngestRun]:
    return await latest_runs(engine, 100)


async def _backfill(
    engine: AsyncEngine,
    source: GivenSource,
    start: date,
    *,
    again: bool = False,
    replace_sample: bool = False,
) -> list[DayResult]:
    policy = replace(FORCED, replace_sample=replace_sample)
    days = days_to_backfill(
        await published_days(engine),
        start,
        days_ago(0),
        now=NOW,
        policy=policy,
        again=again,
    )
    return await ingest(engine, source, days, policy=policy)


async def test_backfill_publishes_missing_days_latest_first(engine: AsyncEngine) -> None:
    source = GivenSource({days_ago(ago): [downloads("flask", 1)] for ago in range(5)})
    await publish(engine, days_ago(2), downloads("flask", 7))
    outcomes = await _backfill(engine, source, days_ago(4))
    assert source.asked_days == [days_ago(0), days_ago(1), days_ago(3), days_ago(4)]
    assert all(isinstance(outcome.result, PublishedDay) for outcome in outcomes)
    assert await repository(engine).recent("flask") == RecentDownloads(1, 11, 11)

    source.asked_days.clear()
    assert await _backfill(engine, source, days_ago(4)) == []
    assert len(await _backfill(engine, source, days_ago(4), again=True)) == 5
    assert await repository(engine).recent("flask") == RecentDownloads(1, 5, 5)


async def test_a_day_that_fails_does_not_stop_a_backfill(engine: AsyncEngine) -> None:
    source = GivenSource(
        {
            days_ago(0): [downloads("flask", 1)],
            days_ago(1): [downloads("flask", 1), SourceError("broke off")],
            days_ago(3): [downloads("flask", 1)],
        }
    )
    outcomes = await _backfill(engine, source, days_ago(3))
    assert {outcome.period for outcome in outcomes if isinstance(outcome.result, IngestError)} == {
        days_ago(1),
        days_ago(2),
    }
    days = await repository(engine).published_days()
    assert [day.day for day in days] == [days_ago(3), days_ago(0)]


async def test_backfill_beyond_the_window_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(IngestError, match="is outside the window"):
        await _backfill(engine, GivenSource({}), days_ago(RETENTION_DAYS))


async def test_backfill_can_replace_the_sample(engine: AsyncEngine) -> None:
    days = [days_ago(ago) for ago in range(2)]
    await ingest(engine, SampleSource(), days)
    source = GivenSource({day: [downloads("flask", 1)] for day in days})
    with pytest.raises(MixedDataError, match="holds sample data"):
        await _backfill(engine, source, days_ago(1), again=True)
    outcomes = await _backfill(engine, source, days_ago(1), replace_sample=True)
    assert all(isinstance(outcome.result, PublishedDay) for outcome in outcomes)
    assert {day.source for day in await repository(engine).published_days()} == {"given"}


async def test_a_backfill_publishes_held_days_that_become_plausible(
    engine: AsyncEngine,
) -> None:
    """The first ones are held beside a lossy day, until there are enough to show the level."""
    await publish(engine, days_ago(7), downloads("flask", 1))
    days = [days_ago(ago) for ago in range(4)]
    source = GivenSource({day: [downloads("flask", 1000)] for day in days})
    async with ingest_lock(engine) as lock:
        ingester = DayIngester(PublishContext(engine, POLICY, lambda: NOW, lock), source)
        outcomes = [outcome async for outcome in ingester.backfill(days)]
    assert isinstance(outcomes[0].error, HeldDayError)
    last = {outcome.period: outcome.result for outcome in outcomes}
    assert list(last) == days
    assert all(isinstance(result, PublishedDay) for result in last.values())


async def test_seeding_fills_the_window(engine: AsyncEngine) -> None:
    days = days_to_seed({}, now=NOW, policy=MONTH, columns=BREAKDOWN_COLUMNS)
    assert days == [days_ago(ago) for ago in range(30)]
    await ingest(engine, SampleSource(), days[:2])
    published = await published_days(engine)
    assert days_to_seed(published, now=NOW, policy=MONTH, columns=BREAKDOWN_COLUMNS) == days[2:]
    # Made anew, where others are chosen now.
    assert days_to_seed(published, now=NOW, policy=MONTH, columns=REQUIRED_COLUMNS) == days
    assert (days_ago(0) - timedelta(days=29)) == days[-1]


# One at a time


async def test_a_second_process_waits_for_the_lock(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LOCK_RETRY_SECONDS", 0.02)
    source = GivenSource({days_ago(0): [downloads("flask", 1)]})
    async with ingest_lock(engine):
        second = asyncio.create_task(ingest(engine, source, [days_ago(0)]))
        await until(lambda: caplog.records)
        assert not second.done()
        assert source.asked_days == []
    await second
    assert [record.getMessage() for record in caplog.records] == [
        "another process is ingesting: waiting until it is done"
    ]
    assert await repository(engine).publication()


async def _end_lock_connection(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        ended = await connection.scalars(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                "AND objid = :key AND database = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())"
            ),
            {"key": LockKey.INGEST & 0xFFFFFFFF},
        )
        assert list(ended) == [True]


@pytest.mark.parametrize("is_heard_of", [True, False])
async def test_a_process_that_loses_the_lock_publishes_nothing(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, is_heard_of: bool
) -> None:
    """In the middle of a day, and whether or not the loss was heard of."""
    await publish(engine, days_ago(1), downloads("flask", 1))
    before = await everything(engine)

    class LosingSource(GivenSource):
        async def _batches(self, _: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
            yield [downloads("flask", 1)]
            await _end_lock_connection(engine)
            if is_heard_of:
                await until(lambda: lock.connection_ended)
            yield [downloads("numpy", 1)]

    async with ingest_lock(engine) as lock:
        if not is_heard_of:
            monkeypatch.setattr(type(lock), "check", lambda _: None)
        ingester = DayIngester(PublishContext(engine, FORCED, lambda: NOW, lock), LosingSource({}))
        with pytest.raises(LockLostError):
            await ingester.ingest_day(days_ago(0))
    assert await everything(engine) == before
    (told,) = await history(engine)
    assert (told.outcome, told.day) == (RunOutcome.FAILED, days_ago(0))
    assert "was lost" in (told.error or "")


# What passes


@dataclass
class FailingSource(GivenSource):
    """Fails in the way given, so many times, before it gives what it has."""

    error: Exception = field(default_factory=lambda: SourceUnavailableError("away"))
    times: int = 1

    async def begin(self, day: Period) -> str | None:
        query = await super().begin(day)
        if len(self.asked_days) <= self.times:
            raise self.error
        return query

    async def read(self, day: Period, query: str | None) -> DayRows:
        return DayRows(self._batches(day), bytes_billed=7)


async def test_temporary_errors_are_retried(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture, quick_retries: None
) -> None:
    source = FailingSource({days_ago(0): [downloads("flask", 1)]}, times=retries.ATTEMPTS - 1)
    (outcome,) = await ingest(engine, source, [days_ago(0)])
    assert isinstance(outcome.result, PublishedDay)
    assert len(source.asked_days) == retries.ATTEMPTS
    assert all("trying again in 0.0 s: away" in message for message in caplog.messages)
    (told,) = await history(engine)
    assert (told.outcome, told.rows, told.bytes_billed) == (RunOutcome.PUBLISHED, 1, 7)


async def test_retries_end_after_the_last_attempt(engine: AsyncEngine, quick_retries: None) -> None:
    source = FailingSource({}, times=retries.ATTEMPTS)
    (outcome,) = await ingest(engine, source, [days_ago(0)])
    assert isinstance(outcome.error, SourceUnavailableError)
    assert len(source.asked_days) == retries.ATTEMPTS
    (told,) = await history(engine)
    assert (told.outcome, told.error, told.bytes_billed) == (RunOutcome.FAILED, "away", None)


async def test_permanent_errors_are_not_retried(engine: AsyncEngine) -> None:
    source = FailingSource({}, error=SourceError("bad credentials"))
    (outcome,) = await ingest(engine, source, [days_ago(0)])
    assert str(outcome) == f"{days_ago(0)} failed: bad credentials"
    assert len(source.asked_days) == 1


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03", "53100"])
async def test_a_temporary_database_error_causes_no_second_reading(
    engine: AsyncEngine, quick_retries: None, sqlstate: str
) -> None:
    """A serialization failure, a deadlock, a lock that was not to be had, a disk that was full."""
    await _refuse(engine, sqlstate, times=retries.ATTEMPTS - 1)
    source = GivenSource({days_ago(0): [downloads("flask", 1), downloads("numpy", 2)]})
    (outcome,) = await ingest(engine, source, [days_ago(0)])
    assert isinstance(outcome.result, PublishedDay)
    assert source.asked_days == [days_ago(0)]
    assert await repository(engine).recent("__all__") == RecentDownloads(3, 3, 3)


async def test_a_disk_that_stays_full_loses_nothing(
    engine: AsyncEngine, quick_retries: None
) -> None:
    await publish(engine, days_ago(1), downloads("flask", 1))
    before = await everything(engine)
    await _refuse(engine, "53100", times=1000)
    source = GivenSource({days_ago(0): [downloads("flask", 1)]})
    with pytest.raises(DatabaseUnavailableError, match="cancelled the statement: refused"):
        await ingest(engine, source, [days_ago(0)])
    assert source.asked_days == [days_ago(0)]
    assert await everything(engine) == before
    (told,) = await history(engine)
    assert told.outcome is RunOutcome.FAILED


async def _refuse(
    engine: AsyncEngine,
    sqlstate: str,
    *,
    times: int,
    when: str = "BEFORE INSERT ON ingested_days",
) -> None:
    """Have the next writes, by default of the day's record, end with an error."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SEQUENCE refusals"))
        await connection.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"IF nextval('refusals') <= {times} THEN "
                f"RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END IF; "
                "RETURN NEW; END $$"
            )
        )
        await connection.execute(
            text(f"CREATE TRIGGER refuse {when} FOR EACH ROW EXECUTE FUNCTION refuse()")
        )


class HangingSource(GivenSource):
    async def begin(self, day: Period) -> str | None:
        if day == days_ago(0):
            await asyncio.Event().wait()
        return await super().begin(day)


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_a_day_that_hangs_times_out(
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_recorded: bool,
) -> None:
    """This is so even if the end of the run can't be recorded while the database is away."""

    def days() -> Iterator[date]:
        for day, seconds in ((days_ago(0), 0.5), (days_ago(1), 3600)):
            monkeypatch.setattr(runs, "DAY_TIMEOUT_SECONDS", seconds)
            yield day

    if not is_recorded:
        # A server that shuts down ends connections with this code.
        await _refuse(engine, "57P01", times=1, when="BEFORE UPDATE ON ingest_runs")
    source = HangingSource({days_ago(1): [downloads("flask", 1)]})
    first, second = await ingest(engine, source, days())
    assert isinstance(first.error, DayTimeoutError)
    assert isinstance(second.result, PublishedDay)
    assert ("the end of run 1 was not recorded" in caplog.text) != is_recorded
    async with ingest_lock(engine):
        ended = "failed" if is_recorded else "interrupted"
        assert [told.outcome for told in await history(engine)] == ["published", ended]


# What is not paid for twice


async def test_an_interrupted_reading_reuses_its_query(
    engine: AsyncEngine, quick_retries: None
) -> None:
    class BreakingSource(GivenSource):
        queries: ClassVar[list[str | None]] = []

        async def read(self, day: Period, query: str | None) -> DayRows:
            self.queries.append(query)
            return DayRows(self._batches(day), bytes_billed=200)

        async def _batches(self, day: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
            yield [downloads("flask", 1)]
            if len(self.queries) < 3:
                raise SourceUnavailableError("broke off")
            if len(self.queries) == 3:
                raise ZeroDivisionError
            yield [downloads("numpy", 2)]

    source = BreakingSource({})
    with pytest.raises(ZeroDivisionError):
        await ingest(engine, source, [days_ago(0)])
    (told,) = await history(engine)
    assert (told.query, told.error) == ("query 1", "ZeroDivisionError: ")
    assert told.bytes_billed == 200, "three readings, one bill"
    # Also in another run, as after a restart.
    (outcome,) = await ingest(engine, source, [days_ago(0)])
    assert isinstance(outcome.result, PublishedDay)
    assert source.queries == ["query 1"] * 4
    assert source.asked_days == [days_ago(0)]
    assert await repository(engine).recent("__all__") == RecentDownloads(3, 3, 3)
    assert (await history(engine))[0].bytes_billed is None
    # What is read once more later is asked anew.
    await ingest(engine, source, [days_ago(0)])
    assert source.queries[-1] == "query 2"


async def test_a_query_is_reused_after_several_kills(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        """Ends a run, which records nothing more."""

    class KillingSource(GivenSource):
        kills = 2

        async def read(self, day: Period, query: str | None) -> DayRows:
            if self.kills:
                self.kills -= 1
                raise KilledError
            return await super().read(day, query)

    async def note_nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(DayIngester, "_record_failure", note_nothing)
    source = KillingSource({days_ago(0): [downloads("flask", 1)]})
    for _ in range(2):
        with pytest.raises(KilledError):
            await ingest(engine, source, [days_ago(0)])
    (outcome,) = await ingest(engine, source, [days_ago(0)])
    assert isinstance(outcome.result, PublishedDay)
    assert source.asked_days == [days_ago(0)]


async def test_a_lost_query_is_sent_again(engine: AsyncEngine, quick_retries: None) -> None:
    class LosingSource(GivenSource):
        async def read(self, day: Period, query: str | None) -> DayRows:
            if query == "query 1":
                raise QueryLostError("gone")
            return await super().read(day, query)

    source = LosingSource({days_ago(0): [downloads("flask", 1)]})
    (outcome,) = await ingest(engine, source, [days_ago(0)])
    assert isinstance(outcome.result, PublishedDay)
    assert len(source.asked_days) == 2


async def test_a_query_with_a_useless_result_is_sent_again(engine: AsyncEngine) -> None:
    """No rows, as of a day that has not landed, and rows that are wrong."""
    twice = [downloads("flask", 1), downloads("flask", 1)]
    for rows in ([], twice):
        source = GivenSource({days_ago(0): rows})
        await ingest(engine, source, [days_ago(0)])
        await ingest(engine, source, [days_ago(0)])
        assert len(source.asked_days) == 2


async def test_a_query_is_not_reused_after_its_result_expired(
    engine: AsyncEngine, clock: ManualClock
) -> None:
    told = RunsRepository(engine)
    run = await told.begin(days_ago(0), "given", clock())
    await told.record_query(run, "query", None)
    await told.record_interrupted()
    clock.advance(hours=19)
    unfinished = await told.run_to_resume(days_ago(0), "given", clock())
    assert unfinished
    assert unfinished.query == "query"
    assert await told.run_to_resume(days_ago(0), "other", clock()) is None
    assert await told.run_to_resume(days_ago(1), "given", clock()) is None
    # Another run that uses it does not make it last longer.
    again = await told.begin(days_ago(0), "given", clock())
    await told.record_query(again, "query", None)
    await told.record_interrupted()
    clock.advance(hours=2)
    assert await told.run_to_resume(days_ago(0), "given", clock()) is None


# What becomes plausible


async def _hold(engine: AsyncEngine, day: date, *rows: PackageDownloads) -> None:
    (outcome,) = await ingest(engine, GivenSource({day: rows}), [day], policy=POLICY)
    assert isinstance(outcome.error, HeldDayError)


async def _released(engine: AsyncEngine) -> list[PublishedDay]:
    async with ingest_lock(engine) as lock:
        return [
            day
            async for day in publish_plausible_held(
                PublishContext(engine, POLICY, lambda: NOW, lock)
            )
        ]


async def test_a_plausible_held_day_is_published_as_it_was_read(engine: AsyncEngine) -> None:
    """A day that was published since makes it plausible."""
    await publish(engine, days_ago(14), downloads("flask", 1000))
    await _hold(engine, days_ago(7), downloads("flask", 300))
    (held,) = await repository(engine).held_days()
    assert await _released(engine) == []
    await publish(engine, days_ago(0), downloads("flask", 330))
    (released,) = await _released(engine)
    assert (released.day, released.downloads) == (days_ago(7), 300)
    assert released.checked_at == held.read_at
    assert not released.suspect_reason
    assert await repository(engine).held_days() == []
    assert (await history(engine))[0].outcome is RunOutcome.PUBLISHED


async def test_a_day_with_wrong_rows_is_not_released(engine: AsyncEngine) -> None:
    wrong = downloads("numpy", 5)._replace(without_mirrors=4)
    await _hold(engine, days_ago(0), downloads("flask", 1), wrong)
    (held,) = await repository(engine).held_days()
    assert held.wrong_rows == 1
    assert await _released(engine) == []


async def test_a_day_that_can_not_be_released_does_not_block_others(
    engine: AsyncEngine, connection: AsyncConnection, caplog: pytest.LogCaptureFixture
) -> None:
    """A held day that is no longer in the window."""
    await publish(engine, days_ago(100), downloads("flask", 1000))
    await publish(engine, days_ago(21), downloads("flask", 1000))
    await _hold(engine, days_ago(93), downloads("flask", 100))
    await _hold(engine, days_ago(14), downloads("flask", 100))
    # Whatever they look like.
    await connection.execute(update(held_days).values(downloads=1000))
    await connection.commit()
    async with ingest_lock(engine) as lock:
        released = [
            day.day
            async for day in publish_plausible_held(
                PublishContext(engine, MONTH, lambda: NOW, lock)
            )
        ]
    assert released == [days_ago(14)]
    assert f"{days_ago(93)} stays held: {days_ago(93)} is outside the window" in caplog.text


# The history


async def test_each_run_is_recorded(engine: AsyncEngine) -> None:
    source = GivenSource(
        {
            days_ago(0): [downloads("flask", 100), downloads("numpy", 100)],
            days_ago(7): [downloads("flask", 10), downloads("numpy", 10)],
        }
    )
    days = [days_ago(0), days_ago(7), days_ago(1)]
    outcomes = await ingest(engine, source, days, policy=POLICY)
    assert isinstance(outcomes[1].error, HeldDayError)
    told = await history(engine)
    assert [(run.day, run.outcome, run.rows) for run in told] == [
        (days_ago(1), RunOutcome.FAILED, 0),
        (days_ago(7), RunOutcome.HELD, 2),
        (days_ago(0), RunOutcome.PUBLISHED, 2),
    ]
    assert f"no rows for {days_ago(1)}" in (told[0].error or "")
    assert "20 downloads instead of 200 on " in (told[1].error or "")
    for run in told:
        assert run.ended_at
        assert timedelta(0) <= run.ended_at - run.started_at < timedelta(minutes=1)


async def test_a_stopped_run_is_recorded_as_stopped(engine: AsyncEngine) -> None:
    waiting = asyncio.Event()

    class WaitingSource(GivenSource):
        async def _batches(self, _: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
            yield [downloads("flask", 1)]
            waiting.set()
            await asyncio.sleep(3600)

    ingesting = asyncio.create_task(ingest(engine, WaitingSource({}), [days_ago(0)]))
    await waiting.wait()
    (told,) = await history(engine)
    assert (told.outcome, told.ended_at) == (RunOutcome.RUNNING, None)
    ingesting.cancel()
    with suppress(asyncio.CancelledError):
        await ingesting
    (told,) = await history(engine)
    assert told.outcome is RunOutcome.STOPPED
    assert told.ended_at


async def test_a_run_without_an_end_is_recorded_as_interrupted(engine: AsyncEngine) -> None:
    await RunsRepository(engine).begin(days_ago(0), "given", NOW)
    (told,) = await history(engine)
    assert (told.outcome, told.ended_at) == (RunOutcome.INTERRUPTED, None)
    async with ingest_lock(engine):
        (told,) = await history(engine)
        assert told.outcome is RunOutcome.INTERRUPTED
        await RunsRepository(engine).begin(days_ago(0), "given", NOW)
        assert [told.outcome for told in await history(engine)] == ["running", "interrupted"]


async def test_failures_count_since_the_last_success(
    engine: AsyncEngine,
) -> None:
    told = RunsRepository(engine)

    async def note(day: date, outcome: RunOutcome, billed: int | None) -> None:
        run = await told.begin(day, "given", NOW)
        if billed:
            await told.record_billed(run, billed)
        elif billed == 0:
            # It was killed before the source had told.
            await told.record_query(run, "query", None)
        await told.end(run, outcome, NOW)

    for outcome, billed in (
        (RunOutcome.FAILED, 1),
        (RunOutcome.PUBLISHED, 1),
        (RunOutcome.FAILED, 1),
        (RunOutcome.FAILED, None),
        (RunOutcome.STOPPED, 1),
        (RunOutcome.INTERRUPTED, 0),
    ):
        await note(days_ago(0), outcome, billed)
    await note(days_ago(1), RunOutcome.FAILED, None)
    await note(days_ago(2), RunOutcome.FAILED, 1)
    await note(days_ago(2), RunOutcome.HELD, 1)
    failures = await told.failures()
    assert set(failures) == {days_ago(0), days_ago(1)}
    assert (failures[days_ago(0)].costly, failures[days_ago(0)].last_outcome) == (2, "interrupted")
    assert failures[days_ago(1)].costly == 0
