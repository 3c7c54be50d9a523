"""The interface of sources of downloads."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from app.domain.breakdowns import REQUIRED_COLUMNS
from app.domain.downloads import Batch, Partition
from app.domain.events import CountedFiles
from app.domain.months import Month, Period
from app.errors import SettingsError
from app.settings import IngestSource, Settings


@dataclass(frozen=True, slots=True)
class DayRows:
    """The rows of a period, read from a source."""

    batches: AsyncGenerator[Batch, None]
    """The period's packages, each once, in batches of any size and in any order.

    Raises `SourceError` if the result is incomplete.
    """

    bytes_billed: int = 0
    columns: Sequence[str] = REQUIRED_COLUMNS
    """Columns of the breakdowns of all rows. They are valid after the first batch."""

    queried_at: datetime | None = None
    """Time of the query, or None for a source without queries."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The downloads that a month's figures contain."""

    counted_files: CountedFiles | None
    """Rule by which all days are counted, or None if they have different rules."""

    missing_days: Sequence[date] = ()


class Source(Protocol):
    """A source of downloads. By default it has no queries, and reading costs nothing."""

    name: str
    """Name of the source, which is recorded with each run."""

    def groups(self, days: Iterable[date]) -> Iterable[Sequence[date]]:
        """Divide days that will be read in this order into groups that need one query each. By
        default each day is a group.
        """
        return ([day] for day in days)

    async def origin(self, period: Period) -> str:
        """Return the source that is recorded with the period: `name`, or `sample` if it is sample
        data of another instance. This costs nothing. Raises `SourceError`.
        """
        del period
        return self.name

    def counted_files(self, day: date) -> CountedFiles:
        """Return the rule by which the day's downloads are counted. Call `origin` first."""
        del day
        return CountedFiles.ALL

    def coverage(self, month: Month) -> Coverage:
        """Return which downloads the month's figures contain. Call `origin` first."""
        return Coverage(self.counted_files(month.first))

    async def partition(self, day: date) -> Partition | None:
        """Return metadata that changes with the day's data, or None if the source has none or it
        can't be read. This costs nearly nothing.
        """
        del day
        return None

    async def begin(self, period: Period) -> str | None:
        """Start the query for a period, which is billed. Return the query's id, or None for a
        source without queries. `read` can return its result any number of times at no cost. Raises
        `SourceError`.
        """
        del period
        return None

    async def read(self, period: Period, query: str | None) -> DayRows:
        """Start to read a query's result. Raises `SourceError`, and `QueryLostError` if the query
        has to be repeated.
        """


def open_source(settings: Settings, kind: IngestSource) -> Source:
    """Create a source. Raises `SettingsError` if a setting that it needs is missing or wrong."""
    # Import only the source that is used: importing Google's client takes longer than all others.
    match kind:
        case IngestSource.NONE:
            raise SettingsError(
                "INGEST_SOURCE=none: --source should name where the downloads come from"
            )
        case IngestSource.SAMPLE:
            from app.ingest.sources.sample import SampleSource  # noqa: PLC0415

            return SampleSource(settings.breakdowns_of(kind), settings.ingest_packages)
        case IngestSource.FILE:
            from app.ingest.sources import file  # noqa: PLC0415

            return file.create_source(settings)
        case _ if settings.ingest_packages:
            from app.ingest.sources import followed_days  # noqa: PLC0415

            return followed_days.create_source(settings)
        case _:
            from app.ingest.sources import bigquery  # noqa: PLC0415

            return bigquery.create_source(settings)
