"""Runs: days or months that are read from a source one after another, with a record of each."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.advisory_lock import HeldLock, LockKey, try_lock
from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.db.repositories.runs_repository import RunsRepository
from app.domain.downloads import IngestRun, PublishedDay, RunOutcome
from app.domain.months import Month, Period, StoredMonth
from app.errors import (
    DatabaseUnavailableError,
    DayTimeoutError,
    HeldDayError,
    IngestError,
    MixedDataError,
    OperatorError,
    RepeatedFaultError,
    SourceUnavailableError,
)
from app.ingest.month_import import import_month
from app.ingest.pipeline import IngestProgress, is_unchanged, read_and_publish
from app.ingest.publish import PublishContext, UnchangedDay, publish_plausible_held
from app.ingest.sources.source import Source
from app.retries import attempts

log = logging.getLogger(__name__)

Result = TypeVar("Result")

DAY_TIMEOUT_SECONDS = 3600
"""Time limit of a day, so that a day that hangs does not block others. A day usually takes minutes.
"""

MONTH_TIMEOUT_SECONDS = 6 * 3600
"""Time limit of a month, whose query reads thirty times as much as that of a day."""

MAX_ERROR_CHARACTERS = 500
"""Maximum length of a recorded error. A statement with its arguments can be long."""

MAX_REPEATED_FAULTS = 3
"""Number of consecutive days or months with the same fault after which a backfill stops."""

LOCK_RETRY_SECONDS = 1.0
"""Pause between two attempts to take the lock that another process holds."""


@asynccontextmanager
async def ingest_lock(engine: AsyncEngine) -> AsyncIterator[HeldLock]:
    """Hold the ingest lock. If another process holds it, wait until it is released."""
    is_logged = False
    while True:
        async with try_lock(engine, LockKey.INGEST) as lock:
            if lock:
                await RunsRepository(engine).record_interrupted()
                yield lock
                return
        if not is_logged:
            log.warning("another process is ingesting: waiting until it is done")
            is_logged = True
        await asyncio.sleep(LOCK_RETRY_SECONDS)


async def published_days(engine: AsyncEngine) -> Mapping[date, PublishedDay]:
    async with connect(engine) as connection:
        return await IngestRepository(connection).published()


@dataclass(frozen=True, slots=True)
class DayResult:
    """The result of one day or month of a run."""

    period: Period
    result: PublishedDay | UnchangedDay | StoredMonth | IngestError
    was_held: bool = False
    """True if the published rows were held before."""

    @property
    def error(self) -> IngestError | None:
        return self.result if isinstance(self.result, IngestError) else None

    def __str__(self) -> str:
        if isinstance(self.result, StoredMonth):
            return f"stored {self.result}"
        if self.error and not isinstance(self.error, HeldDayError):
            return f"{self.period} failed: {self.error}"
        return f"{self.result}, which was held" if self.was_held else str(self.result)


@dataclass(frozen=True, slots=True)
class DayIngester:
    """An ingest of several days or months, with a record of each."""

    context: PublishContext
    source: Source

    async def backfill(self, days: Iterable[date]) -> AsyncIterator[DayResult]:
        """Publish the days, and then the held days that have become plausible.

        A day that is first held and then published has two outcomes. The last one counts. Raises
        `RepeatedFaultError` after `MAX_REPEATED_FAULTS` days in a row with the same fault.
        """
        async for outcome in _until_repeated("days", self.ingest(days)):
            yield outcome
        async for published in publish_plausible_held(self.context):
            yield DayResult(published.day, published, was_held=True)

    async def ingest(
        self, days: Iterable[date], max_queries: float = float("inf")
    ) -> AsyncIterator[DayResult]:
        """Publish the days in the given order. If a day fails, the others are still published.

        After `max_queries` queries, days that need another one are skipped. Raises errors that
        would make every day fail: mixed data, an unavailable database, and a lost lock.
        """
        queries = 0
        for group in self.source.groups(days):
            has_queried = False
            for day in group:
                progress = IngestProgress()
                try:
                    if queries >= max_queries and not await is_unchanged(
                        self.context, self.source, day
                    ):
                        continue
                    outcome = DayResult(day, await self.ingest_day(day, progress))
                except MixedDataError:
                    raise
                except IngestError as error:
                    outcome = DayResult(day, error)
                has_queried |= progress.has_queried
                yield outcome
            queries += has_queried

    async def ingest_day(
        self, day: date, progress: IngestProgress | None = None
    ) -> PublishedDay | UnchangedDay:
        """Publish one day, retry errors that may pass, and record the run."""
        progress = progress or IngestProgress()
        ingest = partial(read_and_publish, self.context, self.source, day, progress)
        return await self._recorded(day, progress, ingest, DAY_TIMEOUT_SECONDS)

    async def import_months(self, months: Iterable[Month]) -> AsyncIterator[DayResult]:
        """Store the months in the given order. If a month fails, the others are still stored.

        Raises like `backfill`.
        """

        async def outcomes() -> AsyncIterator[DayResult]:
            for month in months:
                try:
                    yield DayResult(month, await self.import_month(month))
                except MixedDataError:
                    raise
                except IngestError as error:
                    yield DayResult(month, error)

        async for outcome in _until_repeated("months", outcomes()):
            yield outcome

    async def import_month(self, month: Month) -> StoredMonth:
        """Store one month, retry errors that may pass, and record the run."""
        progress = IngestProgress()
        ingest = partial(import_month, self.context, self.source, month, progress)
        return await self._recorded(month, progress, ingest, MONTH_TIMEOUT_SECONDS)

    async def _recorded(
        self,
        period: Period,
        progress: IngestProgress,
        ingest: Callable[[], Awaitable[Result]],
        timeout_seconds: float,
    ) -> Result:
        """Ingest a period, retry errors that may pass, and record the run."""
        runs, now = RunsRepository(self.context.engine), self.context.clock()

        async def begin() -> tuple[IngestRun | None, int]:
            unfinished = await runs.run_to_resume(period, self.source.name, now)
            return unfinished, await runs.begin(period, self.source.name, now, unfinished)

        async def attempt() -> Result:
            progress.rows = 0
            return await ingest()

        def is_temporary(error: BaseException) -> bool:
            # An unavailable database is retried only before the first row. After that the day
            # fails, and the next run of the job reads it again.
            return isinstance(error, SourceUnavailableError) or (
                _is_unavailable(error) and not progress.rows
            )

        # Wait for a database that became unavailable while the previous day was read.
        started: tuple[IngestRun | None, int] = await attempts(str(period), _is_unavailable)(begin)
        unfinished, run = started
        if unfinished:
            progress.query = progress.billed_query = unfinished.query
            progress.partition = unfinished.partition
        progress.record_query = partial(runs.record_query, run)
        progress.record_billed = partial(runs.record_billed, run)
        try:
            try:
                async with asyncio.timeout(timeout_seconds):
                    result: Result = await attempts(str(period), is_temporary)(attempt)
            except TimeoutError as error:
                raise DayTimeoutError(period, timeout_seconds) from error
        except BaseException as error:
            await self._record_failure(run, progress, error)
            raise
        outcome = RunOutcome.UNCHANGED if isinstance(result, UnchangedDay) else RunOutcome.PUBLISHED
        await runs.end(run, outcome, self.context.clock(), rows=progress.rows)
        return result

    async def _record_failure(
        self, run: int, progress: IngestProgress, error: BaseException
    ) -> None:
        """Record why the run failed. If that fails, the next run records an interruption."""
        runs = RunsRepository(self.context.engine)
        outcome = RunOutcome.FAILED if isinstance(error, Exception) else RunOutcome.STOPPED
        text: str | None = None
        if isinstance(error, HeldDayError):
            outcome, text = RunOutcome.HELD, error.reason
        elif isinstance(error, OperatorError):
            text = _one_line(error)
        elif isinstance(error, Exception):
            text = f"{type(error).__name__}: {_one_line(error)}"
        # Do not reuse a query that the source refused, or whose result was useless.
        is_of_source = isinstance(error, IngestError) and not error.is_temporary
        try:
            query = None if is_of_source else progress.query
            await runs.record_query(run, query, progress.partition)
            now = self.context.clock()
            await runs.end(run, outcome, now, rows=progress.rows, error=text)
        except (OperatorError, SQLAlchemyError, OSError) as unrecorded:
            log.warning("the end of run %d was not recorded: %s", run, _one_line(unrecorded))


async def _until_repeated(
    unit: str, outcomes: AsyncIterator[DayResult]
) -> AsyncIterator[DayResult]:
    """Yield the outcomes until `MAX_REPEATED_FAULTS` in a row have the same fault."""
    fault_kind, repeated = None, 0
    async for outcome in outcomes:
        yield outcome
        same = outcome.error.fault_kind if outcome.error else None
        repeated = repeated + 1 if same and same == fault_kind else bool(same)
        fault_kind = same
        if repeated >= MAX_REPEATED_FAULTS:
            raise RepeatedFaultError(
                f"{repeated} {unit} in a row have the same fault, so no more are tried: "
                f"{fault_kind}"
            )


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, DatabaseUnavailableError)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_ERROR_CHARACTERS]
