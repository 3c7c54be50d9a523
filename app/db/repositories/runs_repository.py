"""Stores the history of ingests: a run for each day that was read or checked, for each month that
was imported, and for each held day that was published later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.dml import UpdateBase

from app.db.advisory_lock import LockKey, is_held
from app.db.engine import connect
from app.db.sql import load_sql
from app.db.statements import Queryable, Statement, fetch
from app.db.tables import ingest_runs
from app.domain.downloads import IngestRun, Partition, RunOutcome
from app.domain.months import Month, Period, first_day

QUERY_REUSE_TIME = timedelta(hours=20)
"""How long a query's result is reused. BigQuery stores it for 24 hours."""


_FAILURES = Statement(text(load_sql("failures")))

_UNSUCCESSFUL = (RunOutcome.FAILED, RunOutcome.INTERRUPTED, RunOutcome.STOPPED)


@dataclass(frozen=True, slots=True)
class Failures:
    """Consecutive runs of a day that failed."""

    costly: int
    """Number of these runs with a billed query."""

    last_started_at: datetime
    last_outcome: RunOutcome


class RunsRepository:
    """Stores runs. Each change is committed at once, so that the record remains if a run fails."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def begin(
        self, period: Period, source: str, now: datetime, unfinished: IngestRun | None = None
    ) -> int:
        """Record that a run begins, and return its id. It takes over an unfinished run's query."""
        values = {
            **_key(period),
            "source": source,
            "started_at": now,
            "outcome": RunOutcome.RUNNING,
        }
        if unfinished:
            names = ("query", "partition_rows", "partition_modified_at")
            values |= {name: getattr(unfinished, name) for name in names}
        query = insert(ingest_runs).values(values).returning(ingest_runs.c.id)
        run: int = (await self._commit(query)).scalar_one()
        return run

    async def record_query(self, run: int, query: str | None, partition: Partition | None) -> None:
        """Record a run's query, and the partition as it was before the query."""
        await self._change(
            run,
            query=query,
            partition_rows=partition and partition.rows,
            partition_modified_at=partition and partition.modified_at,
        )

    async def record_billed(self, run: int, bytes_billed: int) -> None:
        """Add the bytes that were billed for a query."""
        billed = func.coalesce(ingest_runs.c.bytes_billed, 0) + bytes_billed
        await self._change(run, bytes_billed=billed)

    async def end(
        self,
        run: int,
        outcome: RunOutcome,
        now: datetime,
        *,
        rows: int | None = None,
        error: str | None = None,
    ) -> None:
        await self._change(run, ended_at=now, outcome=outcome, rows=rows, error=error)

    async def _change(self, run: int, **values: object) -> None:
        await self._commit(update(ingest_runs).where(ingest_runs.c.id == run).values(values))

    async def _commit(self, change: UpdateBase) -> CursorResult[Any]:
        async with connect(self._engine) as connection:
            result = await connection.execute(change)
            await connection.commit()
            return result

    async def run_to_resume(self, period: Period, source: str, now: datetime) -> IngestRun | None:
        """Return the period's last run if it did not succeed and its query can still be reused."""
        query = select(ingest_runs).filter_by(**_key(period), source=source)
        latest = Statement(query.order_by(ingest_runs.c.id.desc()).limit(1))
        for run in map(_run, await fetch(self._engine, latest)):
            if run.query and run.outcome in _UNSUCCESSFUL:
                # Earlier runs may have used the same query.
                first = select(func.min(ingest_runs.c.started_at)).where(
                    ingest_runs.c.query == run.query
                )
                ((began_at,),) = await fetch(self._engine, Statement(first))
                return run if began_at > now - QUERY_REUSE_TIME else None
        return None

    async def record_interrupted(self) -> int:
        """Record all running runs as interrupted, and return their number. The caller holds the
        ingest lock.
        """
        running = update(ingest_runs).where(ingest_runs.c.outcome == RunOutcome.RUNNING)
        return (await self._commit(running.values(outcome=RunOutcome.INTERRUPTED))).rowcount

    async def failures(self) -> Mapping[date, Failures]:
        """Return the failures of each day since its last successful run."""
        failures: dict[date, Failures] = {}
        for day, started_at, outcome, is_costly in await fetch(self._engine, _FAILURES):
            before = failures[day].costly if day in failures else 0
            failures[day] = Failures(before + is_costly, started_at, RunOutcome(outcome))
        return failures

    async def delete_before(self, moment: datetime) -> None:
        await self._commit(delete(ingest_runs).where(ingest_runs.c.started_at < moment))


async def latest_runs(source: Queryable, limit: int, *, only_days: bool = False) -> list[IngestRun]:
    """Return the last runs of days and months, or only of days, latest first. Running ones whose
    process has ended are returned as interrupted.
    """
    query = select(ingest_runs).order_by(ingest_runs.c.id.desc()).limit(limit)
    if only_days:
        query = query.where(~ingest_runs.c.is_month)
    rows = [dict(row) for row in await fetch(source, Statement(query))]
    running = [row for row in rows if row["outcome"] == RunOutcome.RUNNING]
    if running and not await is_held(source, LockKey.INGEST):
        for row in running:
            row["outcome"] = RunOutcome.INTERRUPTED
    return [_run(row) for row in rows]


def _key(period: Period) -> dict[str, object]:
    return {"day": first_day(period), "is_month": isinstance(period, Month)}


def _run(row: Mapping[str, Any]) -> IngestRun:
    return IngestRun(**{**row, "outcome": RunOutcome(row["outcome"])})
