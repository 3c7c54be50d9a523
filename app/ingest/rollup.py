"""Rolls up months: sums the days of a month to one row per package, which stays when the days are
dropped.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from hashlib import sha256
from itertools import groupby

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.driver_errors import ended_by_server
from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.db.repositories.months_repository import MonthRow, MonthsRepository, staged_line
from app.db.steps import Step, enter
from app.domain.breakdowns import BREAKDOWN_COLUMNS, REQUIRED_COLUMNS
from app.domain.downloads import HeldDay, PublishedDay, served_days
from app.domain.history import days_in
from app.domain.months import StoredMonth, days_of_month, month_of, months_before
from app.domain.package_name import followed_text
from app.ingest.month_rows import MonthPacking
from app.ingest.plan import recheck_at
from app.ingest.policy import PublishPolicy
from app.ingest.publish import PublishContext
from app.interpreter import short_switch_interval
from app.retries import attempts
from app.settings import Settings

log = logging.getLogger(__name__)

STEP_PACKAGES = 2_000
"""Number of packages whose days are read at a time. Their texts take some 10 MB."""

Published = Mapping[date, PublishedDay]
Stored = Mapping[date, StoredMonth]


@dataclass(frozen=True, slots=True)
class MonthOfDays:
    """A month and its published days, in order."""

    month: date
    days: Sequence[PublishedDay]

    @property
    def missing_days(self) -> list[date]:
        published = {one.day for one in self.days}
        return [day for day in days_of_month(self.month) if day not in published]

    @property
    def columns(self) -> list[str]:
        """Columns of the breakdowns that all days have."""
        common = set(BREAKDOWN_COLUMNS).intersection(
            *({*REQUIRED_COLUMNS, *one.breakdowns} for one in self.days)
        )
        return [column for column in BREAKDOWN_COLUMNS if column in common]

    @property
    def followed(self) -> str | None:
        """The followed packages that all days have, or None if the days have all packages."""
        scopes = [{*one.followed.split()} for one in self.days if one.followed is not None]
        return followed_text(scopes[0].intersection(*scopes)) if scopes else None

    @property
    def digest(self) -> str:
        """Hash of the records of the days that the month is computed from."""
        records = [
            f"{one.day} {one.digest} {one.source} {one.counted_files} {' '.join(one.breakdowns)} "
            f"{one.followed}"
            for one in self.days
        ]
        return sha256("\n".join(records).encode()).hexdigest()

    def includes(self, stored: StoredMonth) -> bool:
        """Return True if the days have all days and followed packages of a stored month."""
        has_days = {*days_in([stored])} <= {one.day for one in self.days}
        followed = None if self.followed is None else {*self.followed.split()}
        return has_days and (followed is None or {*(stored.followed or "").split()} <= followed)

    def record(
        self, figures: Mapping[str, object], categories: Mapping[str, Sequence[str]], now: datetime
    ) -> StoredMonth:
        rules = {one.counted_files for one in self.days}
        return StoredMonth(
            **{**figures, "breakdowns": self.columns},  # type: ignore[arg-type]
            month=self.month,
            days=len(self.days),
            missing_days=self.missing_days,
            source=", ".join(sorted({one.source for one in self.days})),
            counted_files=rules.pop() if len(rules) == 1 else None,
            categories=categories,
            days_digest=self.digest,
            followed=self.followed,
            rolled_up_at=now,
        )


def months_of(published: Published) -> list[MonthOfDays]:
    """Return the months with published days, oldest first."""
    days = sorted(published.values(), key=lambda one: one.day)
    by_month = groupby(days, key=lambda one: month_of(one.day))
    return [MonthOfDays(month, list(of_month)) for month, of_month in by_month]


def first_kept_month(latest: date, policy: PublishPolicy) -> date:
    """Return the first month that KEEP_MONTHS allows to store: it counts complete months."""
    if policy.keep_months is None:
        return date.min
    return months_before(month_of(latest + timedelta(days=1)), policy.keep_months)


def due_months(
    published: Published,
    stored: Stored,
    policy: PublishPolicy,
    is_final: Callable[[PublishedDay], bool] = lambda _: False,
) -> list[MonthOfDays]:
    """Return the months to roll up, oldest first.

    A month is due when all its days are published and final, or when its first day has left the
    window, even if days are missing. A stored month loses neither days nor followed packages: it is
    due again only if its days have all of them, and one has changed or the month was imported.
    """
    if not published:
        return []
    latest = max(published)
    first_served = served_days(latest, policy.retention_days).first
    first_kept = first_kept_month(latest, policy)

    def is_due(one: MonthOfDays) -> bool:
        record = stored.get(one.month)
        if record and not one.includes(record):
            return False
        if record and record.days_digest:
            return record.days_digest != one.digest
        return one.month < first_served or (not one.missing_days and all(map(is_final, one.days)))

    return [one for one in months_of(published) if one.month >= first_kept and is_due(one)]


def final_days(
    settings: Settings, now: datetime, held: Mapping[date, HeldDay]
) -> Callable[[PublishedDay], bool]:
    """Return the function that returns True for a day that is not expected to change."""
    return lambda one: one.day not in held and recheck_at(settings, now, one) is None


async def roll_up_due(context: PublishContext, settings: Settings) -> AsyncIterator[StoredMonth]:
    """Roll up the months that are due, oldest first. The caller holds the ingest lock."""
    async with connect(context.engine) as connection:
        repository = IngestRepository(connection)
        is_final = final_days(settings, context.clock(), await repository.held())
        published = await repository.published()
        stored = await MonthsRepository(connection).stored()
    for month in due_months(published, stored, context.policy, is_final):
        if record := await roll_up(context, month):
            yield record


async def roll_up(context: PublishContext, month: MonthOfDays) -> StoredMonth | None:
    """Sum the month's days and store the sums, instead of those from before.

    Return None if a day has changed meanwhile. The next run of the job tries again.
    """
    async with connect(context.engine) as reading, connect(context.engine) as connection:
        staging = MonthsRepository(connection)
        await staging.begin_staging()
        with short_switch_interval():
            enter(Step.SUM, month.month)
            sums = await sums_of(reading, month)
            async for rows in sums.all_rows():
                if context.lock:
                    context.lock.check()
                await staging.stage(list(map(staged_line, rows)))
        figures = asdict(await staging.figures_of_staged(sums.packing.categories))
        await connection.commit()
        record = month.record(figures, sums.packing.categories, context.clock())

        def is_unchanged(published: Published, _: Stored) -> bool:
            seen = [(one.day, one.digest, one.published_at) for one in month.days]
            days = [one for one in published.values() if month_of(one.day) == month.month]
            return seen == sorted((one.day, one.digest, one.published_at) for one in days)

        return record if await store_month(context, connection, record, is_unchanged) else None


async def store_month(
    context: PublishContext,
    connection: AsyncConnection,
    record: StoredMonth,
    is_valid: Callable[[Published, Stored], bool],
) -> bool:
    """Store the staged rows as those of a month, and announce it, in one transaction.

    Return False, and store nothing, unless `is_valid` returns True for the published days and the
    stored months at that time. If the server ends the transaction, it is retried.
    """

    async def store() -> bool:
        try:
            return await _store(context, connection, record, is_valid)
        except BaseException:
            await connection.rollback()
            raise

    return await attempts(f"{record.month:%Y-%m}", ended_by_server)(store)


async def _store(
    context: PublishContext,
    connection: AsyncConnection,
    record: StoredMonth,
    is_valid: Callable[[Published, Stored], bool],
) -> bool:
    repository, months = IngestRepository(connection), MonthsRepository(connection)
    await repository.lock_publish(record.month)
    if not is_valid(await repository.published(), await months.stored()):
        await connection.rollback()
        return False
    await months.replace(record)
    await repository.announce(record.month)
    await context.check_lock(connection)
    enter(Step.COMMIT_MONTH, record.month)
    await connection.commit()
    return True


@dataclass(frozen=True, slots=True)
class MonthSums:
    """Computes the rows of a month from its days, a number of packages at a time."""

    connection: AsyncConnection
    month: date
    packing: MonthPacking
    last_id: int

    def step(self, first_id: int) -> tuple[int, int]:
        """Return the range of ids of the step that begins with this one, both included."""
        return first_id, min(first_id + STEP_PACKAGES - 1, self.last_id)

    async def rows(self, first_id: int, last_id: int) -> list[MonthRow]:
        """Return the rows of the packages with these ids, in order."""
        repository = MonthsRepository(self.connection)
        days = await repository.joined_days(self.month, first_id, last_id, self.packing.columns)
        return await asyncio.to_thread(self.packing.rows, days)

    async def all_rows(self) -> AsyncIterator[list[MonthRow]]:
        """Yield the rows of each step. Postgres reads the next days while this process sums."""
        repository = MonthsRepository(self.connection)

        async def read(first_id: int, last_id: int) -> list[asyncpg.Record]:
            rows = await repository.joined_days(self.month, first_id, last_id, self.packing.columns)
            # No transaction stays open during the roll-up, because it would delay vacuums.
            await self.connection.commit()
            return rows

        starts = range(1, self.last_id + 1, STEP_PACKAGES)
        reading = asyncio.create_task(read(*self.step(1)))
        try:
            for first_id in starts:
                days = await reading
                if first_id != starts[-1]:
                    reading = asyncio.create_task(read(*self.step(first_id + STEP_PACKAGES)))
                yield await asyncio.to_thread(self.packing.rows, days)
        finally:
            # If the caller stops early, the connection has to be free before it is closed.
            reading.cancel()
            await asyncio.wait([reading])


async def sums_of(connection: AsyncConnection, month: MonthOfDays) -> MonthSums:
    repository = MonthsRepository(connection)
    all_packages = await repository.all_packages_id() or 0
    last_id = await repository.last_id()
    columns = month.columns
    totals = await repository.joined_days(month.month, all_packages, all_packages, columns)
    packing = MonthPacking.of({one: totals[0][one] if totals else None for one in columns})
    return MonthSums(connection, month.month, packing, last_id)
