"""Statistics that a handler reads, all of one publication."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from app.db.pool import ReadPool
from app.db.repositories.downloads_repository import DownloadsRepository
from app.db.repositories.rankings_repository import RankingsRepository
from app.db.statements import Queryable
from app.domain.downloads import Publication
from app.domain.events import KnownEvents
from app.errors import OtherPublicationError, RequestError, UnavailableError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Statistics:
    """Everything that a handler computes a response from."""

    downloads: DownloadsRepository
    rankings: RankingsRepository
    events: KnownEvents
    publication: Publication


@dataclass(frozen=True, slots=True)
class StatisticsReader:
    """Reads statistics of the publication that each query sees."""

    pool: ReadPool
    downloads: DownloadsRepository
    rankings: RankingsRepository
    events: KnownEvents

    async def read(
        self, compute: Callable[[Statistics], Awaitable[Result]], expected: Publication | None
    ) -> tuple[Result, Publication]:
        """Compute a result, and return it with the publication that it was computed from.

        Usually that is the expected one, and one query is enough. The query may see another one, if
        a publish was committed meanwhile or several replicas share an address. Then publication and
        result are read again, in one snapshot. Raises a `RequestError`.
        """
        if expected:
            with suppress(OtherPublicationError):
                return await self._compute(compute, self.pool, expected)
        async with self.pool.snapshot() as connection:
            publication = await self.downloads.with_source(connection, None).publication()
            if publication is None:
                raise UnavailableError("No day has been published yet.", retry_after_seconds=300)
            return await self._compute(compute, connection, publication)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[DownloadsRepository]:
        """Open a snapshot, in which all queries see the same state of the database."""
        async with self.pool.snapshot() as connection:
            yield self.downloads.with_source(connection, None)

    async def _compute(
        self,
        compute: Callable[[Statistics], Awaitable[Result]],
        source: Queryable,
        publication: Publication,
    ) -> tuple[Result, Publication]:
        downloads = self.downloads.with_source(source, publication)
        rankings = self.rankings.with_source(source, publication)
        try:
            statistics = Statistics(downloads, rankings, self.events, publication)
            return await compute(statistics), publication
        except RequestError as error:
            error.data_as_of = publication.latest_day
            raise
