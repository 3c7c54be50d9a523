"""A service for clients that exist, with days by which they would notice what is wrong."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect, create_engine
from app.domain.downloads import PackageDownloads
from tests.days import RETENTION_DAYS, days_ago, downloads, publish
from tests.processes import served

LATEST = days_ago(0)

PUBLISHED = (0, 1, 2, 4, 6, 7, 9, 20, 21, 29, 30, 33, 34, 50, 70, 179)
"""Days before the latest: with gaps, and with one at least in each of the latest two months."""

CATEGORIES = {
    "overall": "VALUES ('with_mirrors', with_mirrors), ('without_mirrors', without_mirrors)",
    "python_major": (
        "SELECT split_part(key, '.', 1), value::bigint FROM json_each_text(python_minor)"
    ),
    "python_minor": "SELECT key, value::bigint FROM json_each_text(python_minor)",
    "system": "SELECT key, value::bigint FROM json_each_text(system)",
}

PERIODS = {"daily": "date::text", "monthly": "to_char(date, 'YYYY-MM')", "all": "NULL::text"}

Row = dict[str, Any]


def before_latest(days: int) -> date:
    return LATEST - timedelta(days=days)


def _day(ago: int) -> list[PackageDownloads]:
    """Categories of very different sizes, some of which some days lack."""
    minors = {"2.7": 1, "3.9": 210, "3.10": 31_000, "3.12": 4_000_000, "3.14": ago % 4, "null": 57}
    scaled = {category: size * (ago % 7 + 1) for category, size in minors.items() if size}
    total = sum(scaled.values())
    systems = {"windows": total // 5, "darwin": total // 50, "null": 11}
    if ago % 3:
        systems["other"] = ago
    systems["linux"] = total - sum(systems.values())
    rows = [
        downloads("zope-interface", scaled, systems, mirrors=1_000 * ago),
        downloads("mirrored-only", 0, mirrors=3),
    ]
    if ago % 2 == 0:
        rows.append(downloads("flask", {"3.13": 700 + ago, "null": 9}, {"linux": 709 + ago}))
    if ago == 1:
        rows.append(downloads("requests", 7))
    return rows


@dataclass(frozen=True)
class Held:
    """Reads the database with SQL of its own, and not through the service."""

    engine: AsyncEngine

    async def _rows(self, query: str, **arguments: object) -> list[Row]:
        async with connect(self.engine) as connection:
            return [
                dict(row) for row in (await connection.execute(text(query), arguments)).mappings()
            ]

    async def series(
        self,
        endpoint: str,
        package: str,
        category: str | None = None,
        *,
        total: str = "all",
        start: date = date.min,
        end: date = date.max,
    ) -> list[Row]:
        """Ordered as the service promises, by category and then by date."""
        rows = await self._rows(
            f"""
            SELECT category, {PERIODS[total]} AS date, sum(downloads)::bigint AS downloads
            FROM packages JOIN daily_downloads ON package_id = id
            CROSS JOIN LATERAL ({CATEGORIES[endpoint]}) AS counted (category, downloads)
            WHERE name = :package AND date BETWEEN :start AND :end
              AND category = coalesce(:category, category)
            GROUP BY category, {PERIODS[total]}
            HAVING sum(downloads) > 0
            ORDER BY category COLLATE "C", {PERIODS[total]}
            """,
            package=package,
            category=category,
            start=start,
            end=end,
        )
        return [{key: value for key, value in row.items() if value is not None} for row in rows]

    async def recent(self, package: str) -> dict[str, int]:
        (row,) = await self._rows(
            """
            SELECT sum(without_mirrors * (date > latest - 1)::int)::bigint AS last_day,
                   sum(without_mirrors * (date > latest - 30)::int)::bigint AS last_month,
                   sum(without_mirrors * (date > latest - 7)::int)::bigint AS last_week
            FROM packages JOIN daily_downloads ON package_id = id
            CROSS JOIN (SELECT max(day) AS latest FROM ingested_days) AS published
            WHERE name = :package
            """,
            package=package,
        )
        return row


@pytest.fixture(scope="module")
async def held(module_database_url: str) -> AsyncIterator[Held]:
    engine = create_engine(module_database_url)
    for ago in PUBLISHED:
        rows = _day(ago)
        day = await publish(engine, before_latest(ago), *rows)
        assert day.packages == len(rows)
    yield Held(engine)
    await engine.dispose()


@pytest.fixture(scope="module")
def address(
    held: Held, module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Of the running service, on the database that `held` asks."""
    folder = tmp_path_factory.mktemp("service")
    with served(
        folder / "unused",
        folder / "log",
        DATABASE_URL=module_database_url,
        RETENTION_DAYS=str(RETENTION_DAYS),
        INGEST_SOURCE="none",
    ) as (address, _):
        yield address


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder for what a client keeps."""
    return tmp_path / "cache"
