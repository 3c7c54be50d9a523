"""The source that counts the followed packages in PyPI's table, several days with each query."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from google.cloud import bigquery

from app.domain.downloads import UnparsedDownloads
from app.domain.months import Month, Period
from app.ingest.sources.bigquery import QUERY_TIMEOUT_SECONDS, BigQuerySource
from app.ingest.sources.bigquery_client import call, create_client
from app.ingest.sources.downloads_query import reads_file_names
from app.ingest.sources.source import DayRows
from app.settings import Settings

MAX_DAYS = 60
"""Maximum number of days that a query counts. Its result is kept in memory."""


@dataclass(frozen=True, slots=True)
class _Result:
    query: str
    job: bigquery.QueryJob
    first_read: date
    """Day with which the bytes billed are recorded, because they must be recorded once."""

    rows: dict[str, list[tuple[Any, ...]]]
    """Rows by day: package, downloads with and without mirrors, and the texts of the breakdowns."""


class FollowedDaysSource(BigQuerySource):
    """Counts some packages. A day costs so little that the table's metadata are not checked before
    it is read again.
    """

    def __init__(self, client: bigquery.Client, settings: Settings) -> None:
        super().__init__(client, settings)
        self._groups: dict[date, Sequence[date]] = {}
        self._begun: dict[date, str] = {}
        """Query of each day that a query for other days counts as well."""

        self._result: _Result | None = None

    async def partition(self, _: date) -> None:
        """Return None, because the check would cost as much as the day."""

    def groups(self, days: Iterable[date]) -> Sequence[Sequence[date]]:
        """Divide the days into ranges of up to `MAX_DAYS` days, so that each needs one query."""
        groups: list[list[date]] = []
        for day in days:
            last = groups[-1] if groups else []
            if last and len(last) < MAX_DAYS and self._are_adjacent(last[-1], day):
                last.append(day)
            else:
                groups.append([day])
        self._groups = {day: group for group in groups for day in group}
        return groups

    def _are_adjacent(self, one: date, other: date) -> bool:
        names = {reads_file_names(day, self.counted_files(day)) for day in (one, other)}
        return abs(one - other) == timedelta(days=1) and len(names) == 1

    async def begin(self, period: Period) -> str:
        """Start the query for a day and the days after it in its group. For those, return the same
        query.
        """
        if isinstance(period, Month):
            return await super().begin(period)
        query = self._begun.pop(period, None)
        if query is None:
            group = self._groups.get(period, [period])
            days = group[group.index(period) :]
            query = await self._begin(period, days)
            self._begun = dict.fromkeys(days[1:], query)
        return query

    async def read(self, period: Period, query: str | None) -> DayRows:
        if isinstance(period, Month):
            return await super().read(period, query)
        assert query
        day, result = period, self._result
        if result is None or result.query != query:
            self._result = None
            job, rows = await call(QUERY_TIMEOUT_SECONDS, self._results, day, query)
            by_day = defaultdict(list)
            async for batch in self._batches(rows):
                counts = zip(
                    batch.with_mirrors, batch.without_mirrors, *batch.breakdowns, strict=True
                )
                for name, row in zip(batch.packages, counts, strict=True):
                    counted, _, package = name.partition("\t")
                    by_day[counted].append((package, *row))
            result = self._result = _Result(query, job, day, by_day)
        billed = (result.job.total_bytes_billed or 0) if day == result.first_read else 0
        batches = _batches(result.rows.get(str(day), []))
        return DayRows(batches, billed, self._columns, queried_at=result.job.created)


async def _batches(rows: Sequence[tuple[Any, ...]]) -> AsyncGenerator[UnparsedDownloads, None]:
    if rows:
        packages, with_mirrors, without_mirrors, *texts = zip(*rows, strict=True)
        yield UnparsedDownloads(packages, with_mirrors, without_mirrors, texts)


def create_source(settings: Settings) -> FollowedDaysSource:
    """Create the source from the settings. Raises `SettingsError` if credentials or the project to
    bill are missing.
    """
    return FollowedDaysSource(create_client(settings), settings)
