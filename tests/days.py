"""Days of downloads to ingest, and a source that hands them out."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.downloads import PackageDownloads, PublishedDay
from app.ingest import pipeline
from app.ingest.pipeline import latest_complete_day

RETENTION_DAYS = 180


def days_ago(days: int) -> date:
    """So many days before the latest complete day."""
    return latest_complete_day() - timedelta(days=days)


def downloads(
    package: str,
    python_minor: Mapping[str, int] | int,
    system: Mapping[str, int] | None = None,
    *,
    mirrors: int = 0,
) -> PackageDownloads:
    """A package's day: its downloads by Python version, or only how many they are."""
    if isinstance(python_minor, int):
        python_minor = {"3.12": python_minor} if python_minor else {}
    total = sum(python_minor.values())
    if system is None:
        system = {"linux": total} if total else {}
    return PackageDownloads(
        package, total + mirrors, total, {"python_minor": python_minor, "system": system}
    )


@dataclass
class GivenSource:
    """Gives the rows it was given. An exception among them is raised in their place."""

    days: Mapping[date, Sequence[PackageDownloads | Exception]]
    name: str = "given"
    read_days: list[date] = field(default_factory=list)

    async def read(self, day: date) -> AsyncIterator[Sequence[PackageDownloads]]:
        self.read_days.append(day)
        for row in self.days.get(day, ()):
            if isinstance(row, Exception):
                raise row
            yield [row]


async def publish(engine: AsyncEngine, day: date, *rows: PackageDownloads) -> PublishedDay:
    """Ingest a day of these rows, the way every day is."""
    return await pipeline.ingest_day(
        engine, GivenSource({day: rows}), day, retention_days=RETENTION_DAYS
    )
