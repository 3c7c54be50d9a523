"""Writes days: rows are staged, then published or held in the transaction of the caller.

Rows are staged in a temporary table, which only its connection sees, and which Postgres drops at
the end of the connection. The served data does not change before the publish commits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime

import orjson
from sqlalchemy import ColumnElement, Table, case, delete, func, null, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.advisory_lock import LockKey, lock_for_transaction
from app.db.day_digest import figures_query
from app.db.day_rows import STAGED_COLUMNS, replace_rows, stage_all_packages, update_packages
from app.db.engine import driver_of
from app.db.package_figures import delete_packages, delete_rankings
from app.db.partitions import ensure_partition
from app.db.publication import announce
from app.db.steps import Step, enter
from app.db.tables import (
    daily_downloads,
    held_days,
    held_downloads,
    ingested_days,
    monthly_downloads,
    packages,
    stored_months,
)
from app.domain.breakdowns import BREAKDOWN_COLUMNS, REQUIRED_COLUMNS
from app.domain.downloads import Counts, DayFigures, HeldDay, Partition, PublishedDay
from app.domain.events import CountedFiles

LOCK_TIMEOUT_SECONDS = 60
"""Lock timeout of a publish. It may have to wait for another publish, which takes some seconds."""

WORK_MEMORY_MEGABYTES = 128
"""Memory for a statement of a publish. With less, Postgres ranks 700,000 packages on disk, which
takes a twentieth of an ingest, and reads the rows of 30 days one by one through an index.
"""


StagedRow = str
"""A line of COPY's text: a package, its downloads with and without mirrors, and its counts."""


def staged_rows(
    packages: Iterable[str],
    with_mirrors: Iterable[int],
    without_mirrors: Iterable[int],
    counts: Iterable[Iterable[str]],
) -> Iterator[StagedRow]:
    """Yield rows from columns: valid names, totals, and texts that `counts_text` returned."""
    columns = packages, map(str, with_mirrors), map(str, without_mirrors), *counts
    return map("\t".join, zip(*columns, strict=True))


def counts_text(counts: Counts) -> str:
    """Return counts as the stored JSON, escaped for COPY. Equal counts have equal texts."""
    return orjson.dumps(counts, option=orjson.OPT_SORT_KEYS).decode().replace("\\", r"\\")


class IngestRepository:
    """Works on one connection, which must not be used otherwise at the same time."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def published(self) -> dict[date, PublishedDay]:
        """Return all published days, including those before the days served."""
        rows = await self._connection.execute(select(ingested_days))
        return {row["day"]: PublishedDay(**row) for row in rows.mappings()}

    async def held(self) -> dict[date, HeldDay]:
        rows = await self._connection.execute(select(held_days))
        return {row["day"]: HeldDay(**row) for row in rows.mappings()}

    # Staging

    async def begin_staging(self) -> None:
        breakdowns = ", ".join(
            f"{column} json{' NOT NULL' if column in REQUIRED_COLUMNS else ''}"
            for column in BREAKDOWN_COLUMNS
        )
        await self._connection.execute(text("DROP TABLE IF EXISTS pg_temp.staged_downloads"))
        await self._connection.execute(
            text(
                "CREATE TEMPORARY TABLE staged_downloads (name text NOT NULL, "
                f"with_mirrors bigint NOT NULL, without_mirrors bigint NOT NULL, {breakdowns})"
            )
        )
        await self._connection.commit()

    async def stage(
        self, rows: Sequence[StagedRow], columns: Sequence[str] = REQUIRED_COLUMNS
    ) -> None:
        """Copy rows to the staging table. All rows of a day have the same columns.

        Building COPY's text format takes a third of the time of its binary format.
        """
        # The driver would interpret `bytes` as the path of a file.
        lines = memoryview("\n".join(rows).encode())
        await driver_of(self._connection).copy_to_table(
            "staged_downloads",
            schema_name="pg_temp",
            columns=("name", "with_mirrors", "without_mirrors", *columns),
            source=lines,
        )

    async def stage_published(self, day: date, names: Sequence[str]) -> None:
        """Stage the rows of a published day that belong to these packages."""
        await self._connection.execute(
            text(
                f"INSERT INTO staged_downloads (name, {STAGED_COLUMNS}) "
                f"SELECT name, {STAGED_COLUMNS} FROM daily_downloads "
                "JOIN packages ON id = package_id WHERE date = :day AND name = ANY(:names)"
            ),
            {"day": day, "names": [*names]},
        )
        await self._connection.commit()

    async def downloads_of(self, day: date, names: Sequence[str]) -> tuple[int, int]:
        """Return the staged and the published downloads of packages on a day, with mirrors."""
        total = "SELECT coalesce(sum(with_mirrors), 0)"
        found = await self._connection.execute(
            text(
                f"SELECT ({total} FROM staged_downloads WHERE name = ANY(:names)), "
                f"({total} FROM daily_downloads JOIN packages ON id = package_id "
                "WHERE date = :day AND name = ANY(:names))"
            ),
            {"day": day, "names": [*names]},
        )
        staged, published = found.one()
        return int(staged), int(published)

    async def stage_held(self, day: date) -> None:
        """Stage the rows of a held day."""
        await self._connection.execute(
            text(
                f"INSERT INTO staged_downloads (name, {STAGED_COLUMNS}) "
                f"SELECT name, {STAGED_COLUMNS} FROM held_downloads WHERE day = :day"
            ),
            {"day": day},
        )
        await self._connection.commit()

    async def figures_of_staged(
        self,
        day: date,
        source: str,
        counted_files: CountedFiles,
        partition: Partition | None,
        followed: str | None = None,
    ) -> DayFigures:
        enter(Step.ADD_UP, day)
        await self._connection.execute(text("ANALYZE staged_downloads"))
        described = await self._connection.execute(text(figures_query("staged_downloads")))
        return DayFigures(
            **described.mappings().one(),
            day=day,
            source=source,
            counted_files=counted_files,
            partition_rows=partition.rows if partition else None,
            partition_modified_at=partition.modified_at if partition else None,
            followed=followed,
        )

    # Holding back

    async def hold(
        self, figures: DayFigures, reason: str, read_at: datetime, wrong_rows: int
    ) -> None:
        """Store the staged rows as the day's held rows, instead of those of an earlier reading."""
        enter(Step.HOLD, figures.day)
        before = (await self.held()).get(figures.day)
        is_same = before is not None and before.digest == figures.digest
        if not is_same:
            await self._connection.execute(
                delete(held_downloads).where(held_downloads.c.day == figures.day)
            )
            await self._connection.execute(
                text(
                    f"INSERT INTO held_downloads (day, name, {STAGED_COLUMNS}) "
                    f"SELECT :day, name, {STAGED_COLUMNS} FROM staged_downloads"
                ),
                {"day": figures.day},
            )
        held = HeldDay(
            **asdict(figures),
            reason=reason,
            held_since=before.held_since if before else read_at,
            read_at=read_at,
            readings=before.readings + 1 if before else 1,
            # A stored time can be in the future if a clock was wrong.
            same_since=min(before.same_since, read_at) if before and is_same else read_at,
            wrong_rows=wrong_rows,
        )
        await self._record(held_days, held)

    async def delete_held(self, day: date) -> None:
        await self._delete_held(held_days.c.day == day)

    async def delete_held_before(self, first_served: date) -> None:
        """Delete the held days before this one, and their rows."""
        await self._delete_held(held_days.c.day < first_served)

    async def _delete_held(self, *where: ColumnElement[bool]) -> None:
        gone = delete(held_days).where(*where).returning(held_days.c.day).cte()
        await self._connection.execute(
            delete(held_downloads).where(held_downloads.c.day.in_(select(gone.c.day)))
        )

    # Retention

    async def latest_day(self) -> date | None:
        latest: date | None = await self._connection.scalar(select(func.max(ingested_days.c.day)))
        return latest

    async def delete_before(self, first_kept: date) -> int:
        """Delete the records of the days before `first_kept`, whose rows are dropped, and the
        packages without a row in a later day or in a month. Return the number of these packages.
        The caller holds the publish lock.
        """
        enter(Step.DELETE_PACKAGES, first_kept)
        await self._connection.execute(
            delete(ingested_days).where(ingested_days.c.day < first_kept)
        )
        await self._connection.execute(
            update(packages).where(packages.c.last_seen < first_kept).values(last_seen=None)
        )
        return await delete_packages(self._connection)

    # Publishing

    async def lock_publish(self, day: date) -> None:
        """Wait for the publish lock, which excludes other publishes and retention until the
        transaction ends. Figures are summed over several days, and retention must not delete months
        or packages that a publish uses.

        From now on, the transaction fails if it does not get a lock in time.
        """
        enter(Step.LOCK, day)
        await self._connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
        await lock_for_transaction(self._connection, LockKey.PUBLISH)
        await self._connection.execute(text(f"SET LOCAL work_mem = '{WORK_MEMORY_MEGABYTES}MB'"))

    async def delete_everything(self) -> None:
        """Delete all days, months and packages. Readers see them until the transaction commits."""
        tables = (daily_downloads, monthly_downloads, packages, ingested_days, stored_months)
        for table in tables:
            await self._connection.execute(delete(table))
        await delete_rankings(self._connection)
        await self._delete_held()

    async def publish(
        self, figures: DayFigures, *, read_at: datetime, published_at: datetime
    ) -> PublishedDay:
        """Replace the day's rows by the staged ones, and update all figures that depend on them, in
        the caller's transaction. The caller holds the publish lock, and calls `announce`
        afterwards.
        """
        day = figures.day
        published = PublishedDay(**asdict(figures), published_at=published_at, checked_at=read_at)
        enter(Step.ALL_PACKAGES, day)
        await stage_all_packages(self._connection)
        enter(Step.PARTITION, day)
        latest_before = await self.latest_day()
        await ensure_partition(self._connection, day)
        await replace_rows(self._connection, day)
        enter(Step.RECORD, day)
        await self._record(ingested_days, published)
        await self.delete_held(day)
        enter(Step.FIGURES, day)
        await update_packages(self._connection, day, latest_before)
        await self._connection.execute(text("DROP TABLE pg_temp.staged_downloads"))
        return published

    async def announce(self, day: date) -> None:
        """Announce a publish, as the last change of its transaction."""
        enter(Step.ANNOUNCE, day)
        await announce(self._connection)

    async def record_check(self, figures: DayFigures, read_at: datetime) -> None:
        """Record that a published day was read again and stays as it is. Its held rows are
        outdated, because the source has other rows now, so they are deleted.
        """
        await self.delete_held(figures.day)
        await self._connection.execute(
            update(ingested_days)
            .where(ingested_days.c.day == figures.day)
            .values(
                checked_at=read_at,
                partition_rows=figures.partition_rows,
                partition_modified_at=figures.partition_modified_at,
            )
        )

    async def record_unchanged(self, day: date, checked_at: datetime) -> None:
        """Record that a check found the source's data of a day unchanged."""
        await self._connection.execute(
            update(ingested_days).where(ingested_days.c.day == day).values(checked_at=checked_at)
        )
        await self._connection.execute(
            update(held_days)
            .where(held_days.c.day == day)
            .values(
                read_at=checked_at,
                readings=held_days.c.readings + 1,
                same_since=func.least(held_days.c.same_since, checked_at),
            )
        )

    async def record_suspects(self, reasons: Mapping[date, str]) -> None:
        """Record the reasons of suspect published days, and remove the reasons of all others."""
        reason = case(reasons, value=ingested_days.c.day) if reasons else null()
        await self._connection.execute(
            update(ingested_days)
            .where(ingested_days.c.suspect_reason.is_distinct_from(reason))
            .values(suspect_reason=reason)
        )

    async def _record(self, table: Table, day: PublishedDay | HeldDay) -> None:
        values = asdict(day)
        await self._connection.execute(
            insert(table)
            .values(values)
            .on_conflict_do_update(index_elements=[table.c.day], set_=values)
        )
