"""Where a day's downloads come from."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from app.domain.breakdowns import REQUIRED_COLUMNS
from app.domain.downloads import Batch, Partition
from app.domain.events import CountedFiles
from app.errors import SettingsError
from app.settings import IngestSource, Settings


@dataclass(frozen=True, slots=True)
class Reading:
    """A day that a source has begun to give."""

    batches: AsyncGenerator[Batch, None]
    """The day's packages, each once, in batches of any size and in any order.

    Raises `SourceError` when not all of them come.
    """

    bytes_billed: int = 0
    columns: Sequence[str] = REQUIRED_COLUMNS
    """Of the breakdowns that every one of its packages has. Right once there is a batch."""

    queried_at: datetime | None = None
    """When the query ran whose result is read; None for a source that is read directly."""


class Source(Protocol):
    @property
    def name(self) -> str:
        """As recorded with each run that asked it."""

    async def origin(self, day: date) -> str:
        """As recorded with the day: the name, but where the source only hands on what another made
        up. Costs nothing. Raises `SourceError`.
        """

    def counted_files(self, day: date) -> CountedFiles:
        """Return the rule by which the day's downloads are counted. `origin` was called before."""

    async def partition(self, day: date) -> Partition | None:
        """Return the state of the day's data, which changes if the data does. Costs next to
        nothing. None if the source does not report it. Raises `SourceError`.
        """

    async def begin(self, day: date) -> str | None:
        """Ask for a day, which is what is billed. Gives by what its rows can be read, and read
        again at no further cost; None where that is the day itself. Raises `SourceError`.
        """

    async def read(self, day: date, query: str | None) -> Reading:
        """Begin to read what was asked for. Raises `SourceError`, and `QueryLostError` when it has
        to be asked for anew.
        """


def open_source(settings: Settings, kind: IngestSource) -> Source:
    """Raises `SettingsError` when a setting that the source needs is missing or wrong."""
    if kind is IngestSource.NONE:
        raise SettingsError(
            "INGEST_SOURCE=none: --source should name where the downloads come from"
        )
    if kind is IngestSource.SAMPLE:
        # Sources import what they hand over from here.
        from app.ingest.sources.sample import SampleSource  # noqa: PLC0415

        return SampleSource(settings.breakdowns_of(kind))
    if kind is IngestSource.FILE:
        from app.ingest.sources.file import create_source as create_file_source  # noqa: PLC0415

        return create_file_source(settings)
    # Google's client takes longer to import than everything else together.
    from app.ingest.sources.bigquery import create_source  # noqa: PLC0415

    return create_source(settings)
