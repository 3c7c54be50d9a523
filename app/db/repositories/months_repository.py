"""Stores months: rows are staged, then replace those of the month in the caller's transaction."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from hashlib import sha256
from operator import itemgetter
from typing import Any

import asyncpg
import orjson
from sqlalchemy import Text, cast, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.day_digest import figures_query
from app.db.day_rows import repeated_packages_refused, stage_all_packages
from app.db.engine import driver_of
from app.db.package_figures import delete_packages, rewrite_top_of_months
from app.db.sql import load_sql
from app.db.statements import Statement, fetch
from app.db.steps import Step, enter
from app.db.tables import monthly_downloads, packages, stored_months
from app.domain.breakdowns import BREAKDOWN_COLUMNS
from app.domain.months import StoredMonth, following_month
from app.domain.package_name import ALL_PACKAGES

COLUMNS = ("name", "with_mirrors", "without_mirrors", *BREAKDOWN_COLUMNS)
"""Columns of staged rows."""

MonthRow = tuple[str | int | None, ...]
"""The values of `COLUMNS` for a package. The counts are texts, or None."""

_MISSING = r"\N"
"""NULL in COPY's text format."""

FETCHED_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class MonthFigures:
    """Figures of a month's rows, which are the fields of `StoredMonth` with these names."""

    packages: int
    downloads: int
    downloads_with_mirrors: int
    digest: str
    breakdowns: Sequence[str]


class MonthsRepository:
    """Works on one connection, which must not be used otherwise at the same time."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def stored(self) -> dict[date, StoredMonth]:
        rows = await self._connection.execute(select(stored_months))
        return {row["month"]: StoredMonth(**row) for row in rows.mappings()}

    async def with_other_packages(self, names: Sequence[str]) -> list[StoredMonth]:
        """Return the stored months of other followed packages than these, latest first."""
        rows = monthly_downloads.join(packages, packages.c.id == monthly_downloads.c.package_id)
        others = packages.c.name.not_in([*names, ALL_PACKAGES])
        query = select(monthly_downloads.c.month).select_from(rows).where(others).distinct()
        stored = await self.stored()
        found = {
            month for month, one in stored.items() if {*(one.followed or "").split()} - {*names}
        }
        found |= {*await self._connection.scalars(query)}
        return [stored[month] for month in sorted(found, reverse=True)]

    # Reading days and months

    async def all_packages_id(self) -> int | None:
        query = select(packages.c.id).where(packages.c.name == ALL_PACKAGES)
        found: int | None = await self._connection.scalar(query)
        return found

    async def last_id(self) -> int:
        return await self._connection.scalar(select(func.max(packages.c.id))) or 0

    async def joined_days(
        self, month: date, first_id: int, last_id: int, columns: Sequence[str]
    ) -> list[asyncpg.Record]:
        """Return one row per package with these ids: its name, the sums of its totals, and for each
        of the columns the counts of its days, joined by commas.
        """
        query = load_sql(
            "joined_days",
            columns=", ".join(columns),
            joined=", ".join(f"string_agg(CAST({one} AS text), ',') AS {one}" for one in columns),
        )
        return await fetch(
            self._connection,
            Statement(text(query)),
            first_id=first_id,
            last_id=last_id,
            month=month,
            next=following_month(month),
        )

    async def rows(self, month: date, first_id: int, last_id: int) -> list[MonthRow]:
        """Return the stored rows of the packages with these ids, in order."""
        query = (
            select(
                packages.c.name,
                *monthly_downloads.c["with_mirrors", "without_mirrors"],
                *(cast(monthly_downloads.c[one], Text) for one in BREAKDOWN_COLUMNS),
            )
            .join(packages, packages.c.id == monthly_downloads.c.package_id)
            .where(
                monthly_downloads.c.month == month,
                monthly_downloads.c.package_id.between(first_id, last_id),
            )
            .order_by(monthly_downloads.c.package_id)
        )
        return [tuple(row) for row in await self._connection.execute(query)]

    # Staging

    async def begin_staging(self) -> None:
        breakdowns = ", ".join(f"{column} json" for column in BREAKDOWN_COLUMNS)
        await self._connection.execute(text("DROP TABLE IF EXISTS pg_temp.staged_month"))
        await self._connection.execute(
            text(
                "CREATE TEMPORARY TABLE staged_month (name text NOT NULL, "
                f"with_mirrors bigint NOT NULL, without_mirrors bigint NOT NULL, {breakdowns})"
            )
        )
        await self._connection.commit()

    async def stage(self, lines: Sequence[str]) -> None:
        """Copy rows to the staging table, which are lines from `staged_line`."""
        await driver_of(self._connection).copy_to_table(
            "staged_month",
            schema_name="pg_temp",
            columns=COLUMNS,
            # The driver would interpret `bytes` as the path of a file.
            source=memoryview("\n".join(lines).encode()),
        )

    async def counts_of_read(self, columns: Sequence[str]) -> AsyncIterator[list[tuple[Any, ...]]]:
        """Yield the rows that `IngestRepository` has staged: the name, the totals, and the counts
        of these columns as texts. The first batch has the row of `__all__`, if there are rows. No
        transaction stays open meanwhile.
        """
        await stage_all_packages(self._connection)
        # The driver prepares FETCH only once, so that the columns have to be always the same.
        texts = ", ".join(f"CAST({one} AS text)" for one in BREAKDOWN_COLUMNS)
        query = f"SELECT name, with_mirrors, without_mirrors, {texts} FROM staged_downloads"
        chosen = itemgetter(*range(3), *(3 + BREAKDOWN_COLUMNS.index(one) for one in columns))
        total = await self._connection.execute(text(f"{query} WHERE name = '{ALL_PACKAGES}'"))
        yield list(map(chosen, total))
        # The connection may have a cursor of an import that failed. The commit computes the result
        # of a cursor WITH HOLD.
        await self._connection.execute(text("CLOSE ALL"))
        cursor = f"DECLARE read_rows CURSOR WITH HOLD FOR {query} WHERE name <> '{ALL_PACKAGES}'"
        await self._connection.execute(text(cursor))
        await self._connection.commit()
        fetch_rows = text(f"FETCH {FETCHED_ROWS} FROM read_rows")
        while rows := list(map(chosen, await self._connection.execute(fetch_rows))):
            await self._connection.commit()
            yield rows
        await self._connection.execute(text("CLOSE read_rows"))
        await self._connection.commit()

    async def figures_of_staged(self, categories: dict[str, list[str]]) -> MonthFigures:
        """Return the figures of the staged rows, whose counts are in the order of `categories`."""
        await self._connection.execute(text("ANALYZE staged_month"))
        return await self._figures("staged_month", categories)

    async def figures_of_stored(self, month: StoredMonth) -> MonthFigures:
        """Return the figures of a stored month's rows."""
        rows = f"monthly_downloads JOIN packages ON id = package_id AND month = '{month.month}'"
        return await self._figures(rows, month.categories)

    async def _figures(self, rows: str, categories: object) -> MonthFigures:
        of_packages = f"(SELECT * FROM {rows} WHERE name <> '{ALL_PACKAGES}') AS of_packages"
        query = text(figures_query(of_packages, BREAKDOWN_COLUMNS, ()))
        row = (await self._connection.execute(query)).one()
        columns = ", ".join(f"CAST({one} AS text)" for one in COLUMNS)
        total = text(f"SELECT {columns} FROM {rows} WHERE name = '{ALL_PACKAGES}'")
        of_all_packages = [list(one) for one in await self._connection.execute(total)]
        # Without the categories, the rows have no meaning.
        parts = [row.digest, of_all_packages, categories]
        digest = sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return MonthFigures(
            packages=row.packages,
            downloads=row.downloads,
            downloads_with_mirrors=row.downloads_with_mirrors,
            digest=digest,
            breakdowns=row.breakdowns,
        )

    # Storing

    async def replace(self, month: StoredMonth) -> None:
        """Replace the month's rows by the staged ones, rank packages, and record the month.

        Packages that have no rows any more are deleted. The caller holds the publish lock.
        """
        enter(Step.MONTH_ROWS, month.month)
        if month.month in await self.stored():
            await self._delete(month.month)
        # An imported month may have packages that no day has. The most downloaded ones get the
        # lowest ids.
        columns = ", ".join(column.name for column in monthly_downloads.c)
        rows = load_sql("month_rows", columns=", ".join(BREAKDOWN_COLUMNS))
        with repeated_packages_refused(month.period):
            await self._connection.execute(
                text(
                    "INSERT INTO packages (name) SELECT name FROM staged_month AS staged "
                    "WHERE NOT EXISTS (SELECT FROM packages WHERE packages.name = staged.name) "
                    "ORDER BY without_mirrors DESC, name"
                )
            )
            await self._connection.execute(
                text(f"INSERT INTO monthly_downloads ({columns}) {rows}"),
                {"month": month.month, "all_packages": ALL_PACKAGES},
            )
        values = asdict(month)
        await self._connection.execute(insert(stored_months).values(values))
        await delete_packages(self._connection)
        await self._rank(month.month)
        await self._connection.execute(text("DROP TABLE pg_temp.staged_month"))

    async def delete_before(self, first_kept: date) -> list[date]:
        """Delete the months before `first_kept`, and return them. The caller holds the publish
        lock.
        """
        enter(Step.EXPIRE_MONTHS, first_kept)
        deleted = [month for month in sorted(await self.stored()) if month < first_kept]
        for month in deleted:
            await self._delete(month)
        if deleted:
            await self._rank(first_kept)
        return deleted

    async def _delete(self, month: date) -> None:
        for table in (monthly_downloads, stored_months):
            await self._connection.execute(delete(table).where(table.c.month == month))

    async def _rank(self, month: date) -> None:
        enter(Step.TOTALS, month)
        await rewrite_top_of_months(self._connection)


def staged_line(row: MonthRow) -> str:
    """Return a row in COPY's text format."""
    return "\t".join([_MISSING if one is None else str(one).replace("\\", r"\\") for one in row])
