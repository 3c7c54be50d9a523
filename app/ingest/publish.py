"""Publishes or holds a staged day, in one transaction, and publishes held days later."""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.advisory_lock import HeldLock
from app.db.driver_errors import ended_by_server
from app.db.engine import connect
from app.db.repositories.ingest_repository import IngestRepository
from app.db.repositories.runs_repository import RunsRepository
from app.db.steps import Step, enter
from app.domain.clock import Clock
from app.domain.downloads import DayFigures, PublishedDay, RunOutcome, served_days
from app.errors import HeldDayError, IngestError, MixedDataError, ShrunkDayError
from app.ingest.judge import KnownDays
from app.ingest.policy import PublishPolicy
from app.retries import attempts
from app.settings import IngestSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublishContext:
    """The database in which days are published, and the rules of publishing."""

    engine: AsyncEngine
    policy: PublishPolicy
    clock: Clock
    lock: HeldLock | None = None
    """Ingest lock. Nothing is published after it is lost."""

    async def check_lock(self, connection: AsyncConnection) -> None:
        """Raise `LockLostError` if the lock was lost. Called right before each commit."""
        if self.lock:
            await self.lock.check_on_server(connection)


@dataclass(frozen=True, slots=True)
class StagedDay:
    """A day whose rows are in the staging table of a connection."""

    figures: DayFigures
    read_at: datetime
    wrong_rows: int = 0
    fault: str | None = None
    """Why the day is held even if its figures are plausible: some of its rows are wrong."""

    fault_kind: str | None = None
    """The kind of the fault, with the same text for all days that have it. A backfill stops if
    several days in a row have it.
    """


@dataclass(frozen=True, slots=True)
class UnchangedDay:
    """A published day that stays, because the source's data has not changed or is no reason to
    replace it.
    """

    published: PublishedDay

    def __str__(self) -> str:
        return f"unchanged {self.published.day}: {DayFigures.__str__(self.published)}"


def check_in_window(day: date, latest: date, retention_days: int) -> None:
    """Raise if the day is before the days that are served when `latest` is published."""
    window = served_days(latest, retention_days)
    if day < window.first:
        raise IngestError(
            f"{day} is outside the window that is served, {window.first} to {latest}: "
            "RETENTION_DAYS sets its length"
        )


def must_delete_sample(
    published: Mapping[date, PublishedDay], source: str, day: date, policy: PublishPolicy
) -> bool:
    """Return True if sample data must be deleted to publish the day.

    Raises if the day can't be published beside the published days.
    """
    is_sample = source == IngestSource.SAMPLE
    holds_sample = any(one.source == IngestSource.SAMPLE for one in published.values())
    if published and is_sample and not holds_sample:
        raise MixedDataError(
            "the database holds real data, which is never mixed with sample data: "
            "use another database for the sample"
        )
    replaces_sample = holds_sample and not is_sample
    if replaces_sample and not policy.replace_sample:
        raise MixedDataError(
            f"the database holds sample data, which is never mixed with data from {source}: "
            "run `pypi-stats ingest --replace-sample` once to delete the sample "
            "as the first real day is published"
        )
    if published and not replaces_sample:
        check_scope(published.values(), policy.followed)
        check_in_window(day, max(published), policy.retention_days)
    return replaces_sample


def check_scope(published: Iterable[DayFigures], followed: str | None) -> None:
    """Raise if some days have all packages, and others only those that are followed."""
    if any((one.followed is None) != (followed is None) for one in published):
        stored, change = ("some", "set") if followed is None else ("all", "unset")
        raise MixedDataError(
            f"the database holds the figures of {stored} packages, and days of all and of some "
            f"packages are never mixed: {change} INGEST_PACKAGES, or use another database"
        )


async def publish_staged(
    context: PublishContext, connection: AsyncConnection, staged: StagedDay
) -> PublishedDay | UnchangedDay:
    """Publish the day, or hold it and raise `HeldDayError`.

    Raises `ShrunkDayError` if the published day has more downloads, unless forced. If the server
    ends the transaction, the staged rows remain, and the transaction is retried.
    """

    async def publish() -> PublishedDay | UnchangedDay:
        try:
            return await _publish(context, connection, staged)
        except BaseException:
            await connection.rollback()
            raise

    return await attempts(str(staged.figures.day), ended_by_server)(publish)


async def _publish(
    context: PublishContext, connection: AsyncConnection, staged: StagedDay
) -> PublishedDay | UnchangedDay:
    repository = IngestRepository(connection)
    policy, figures, day = context.policy, staged.figures, staged.figures.day
    await repository.lock_publish(day)
    published, held = await repository.published(), await repository.held()
    replaces_sample = must_delete_sample(published, figures.source, day, policy)
    if replaces_sample:
        published, held = {}, {}
    enter(Step.JUDGE, day)
    before = published.get(day)
    verdict = KnownDays(published, held, policy).judge(figures)
    reason = staged.fault or verdict.reason
    has_other_names = before is not None and before.followed != figures.followed
    now_read = figures.downloads_with_mirrors
    were_published = before.downloads_with_mirrors if before else 0
    if before and has_other_names:
        names = {*(before.followed or "").split()} & {*(figures.followed or "").split()}
        now_read, were_published = await repository.downloads_of(day, sorted(names))
    is_better = before is None or (
        now_read > were_published
        # A name was added, and the source still has the downloads of the others.
        or (has_other_names and now_read == were_published)
        # Counts by another definition can't be compared.
        or not policy.counts_alike(day, figures.counted_files, before.counted_files)
        # The published day was suspect, and the source has corrected it.
        or bool(before.suspect_reason and not (verdict.deviation or staged.fault))
    )
    result: PublishedDay | UnchangedDay | IngestError
    if before and policy.only_if_changed and not is_better and not has_other_names:
        await repository.record_check(figures, staged.read_at)
        result = UnchangedDay(before)
    elif before and not (policy.force or is_better) and now_read < were_published:
        # The held rows are outdated, because the source has other rows now.
        await repository.delete_held(day)
        result = ShrunkDayError(day, now_read, were_published)
    elif reason and not policy.force:
        await repository.hold(figures, reason, staged.read_at, staged.wrong_rows)
        result = HeldDayError(day, reason, staged.fault_kind)
    else:
        if replaces_sample:
            await repository.delete_everything()
        now = context.clock()
        result = await repository.publish(figures, read_at=staged.read_at, published_at=now)
    suspects = await record_suspects(repository, policy)
    if isinstance(result, PublishedDay):
        result = replace(result, suspect_reason=suspects.get(day))
        await repository.announce(day)
    await context.check_lock(connection)
    enter(Step.COMMIT, day)
    await connection.commit()
    if isinstance(result, IngestError):
        raise result
    if replaces_sample:
        log.warning("deleted all sample data")
    return result


async def record_suspects(
    repository: IngestRepository, policy: PublishPolicy
) -> Mapping[date, str]:
    """Record which published days are suspect, and why. The caller holds the publish lock."""
    published, held = await repository.published(), await repository.held()
    first = served_days(max(published), policy.retention_days).first if published else date.min
    suspects = KnownDays(published, held, policy).suspects(first)
    await repository.record_suspects(suspects)
    return suspects


async def publish_held(context: PublishContext, day: date) -> PublishedDay | None:
    """Publish a held day as it was last read, if it has become plausible or is forced, and record a
    run.

    Return None if the day is not held or stays held. Raises an `IngestError`.
    """
    policy = context.policy
    async with connect(context.engine) as connection:
        repository = IngestRepository(connection)
        held = (await repository.held()).get(day)
        if not held or not policy.follows_alike(held):
            return None
        if not (policy.force or day in await _plausible(repository, policy)):
            return None
        await repository.begin_staging()
        await repository.stage_held(day)
        figures = await repository.figures_of_staged(
            day, held.source, held.counted_files, held.partition, held.followed
        )
        await connection.commit()
        forced = replace(context, policy=replace(policy, force=True, only_if_changed=False))
        published = await publish_staged(forced, connection, StagedDay(figures, held.read_at))
        assert isinstance(published, PublishedDay)
    runs = RunsRepository(context.engine)
    run = await runs.begin(day, published.source, context.clock())
    await runs.end(run, RunOutcome.PUBLISHED, context.clock(), rows=published.packages)
    return published


async def publish_plausible_held(context: PublishContext) -> AsyncIterator[PublishedDay]:
    """Publish the held days that have become plausible, latest first.

    Each published day can make another one plausible.
    """
    tried: set[date] = set()
    while True:
        async with connect(context.engine) as connection:
            plausible = await _plausible(IngestRepository(connection), context.policy) - tried
        if not plausible:
            return
        day = max(plausible)
        # Try each day only once.
        tried.add(day)
        try:
            if published := await publish_held(context, day):
                yield published
        except IngestError as error:
            log.warning("%s stays held: %s", day, error)


async def _plausible(repository: IngestRepository, policy: PublishPolicy) -> set[date]:
    """Return the held days that have become plausible, because of the days around them."""
    held = await repository.held()
    known = KnownDays(await repository.published(), held, policy)
    return {
        day
        for day, one in held.items()
        if policy.follows_alike(one) and not (one.wrong_rows or known.judge(one).reason)
    }
