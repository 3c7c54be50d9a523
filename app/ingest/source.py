"""Where a day's downloads come from."""

from collections.abc import AsyncIterator, Sequence
from datetime import date
from typing import Protocol

from app.downloads import PackageDownloads
from app.ingest.sample import SampleSource
from app.settings import IngestSource, Settings


class Source(Protocol):
    @property
    def name(self) -> str:
        """As recorded with each day that it gave."""

    def read(self, day: date) -> AsyncIterator[Sequence[PackageDownloads]]:
        """The day's packages, each once, in batches of any size and in any order.

        Raises `SourceError` when it can't give all of them.
        """


def open_source(settings: Settings, kind: IngestSource) -> Source:
    """Raises `SettingsError` when a setting that the source needs is missing or wrong."""
    if kind is IngestSource.SAMPLE:
        return SampleSource()
    # Google's client takes longer to import than everything else together.
    from app.ingest.bigquery import create_source  # noqa: PLC0415

    return create_source(settings)
