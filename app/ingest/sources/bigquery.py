"""The source that counts downloads in PyPI's public BigQuery table."""

import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from datetime import date
from functools import partial
from hashlib import blake2b

from google.api_core.exceptions import GoogleAPIError, NotFound
from google.api_core.page_iterator import Page
from google.api_core.retry import Retry
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY

from app.domain.breakdowns import Breakdown, columns_with
from app.domain.days import end_of, start_of
from app.domain.downloads import Partition, UnparsedDownloads
from app.domain.events import CountedFiles
from app.domain.months import Month, Period, days_of
from app.errors import QueryLostError, SourceError, SourceUnavailableError
from app.ingest.sources.bigquery_client import (
    call,
    create_client,
    is_temporary,
    one_line,
    parse_by_orjson,
    source_errors,
)
from app.ingest.sources.downloads_query import downloads_query
from app.ingest.sources.source import DayRows, Source
from app.retries import attempts
from app.settings import IngestSource, Settings

log = logging.getLogger(__name__)

PAGE_ROWS = 10_000
"""Maximum rows per page. Parsing a page blocks the event loop for about 5 ms."""

RETRY_FOR_SECONDS = 60
"""How long the client retries a call after a temporary failure."""

CALL_TIMEOUT_SECONDS = 60
QUERY_TIMEOUT_SECONDS = 900
"""Maximum duration of a day's query, which takes about a minute, and of fetching a page of rows."""

MONTH_QUERY_TIMEOUT_SECONDS = 3 * 3600
"""Maximum duration of a month's query, which reads thirty times as much. BigQuery allows six hours.
"""

CHECK_TIMEOUT_SECONDS = 30
"""Maximum duration of the query of a partition's metadata, which takes some seconds."""

USD_PER_TIB_BILLED = 6.25
"""On-demand price of a query in the US multi-region, beyond the first TiB of each month."""

PARTITIONS = (
    "SELECT total_rows, last_modified_time FROM `{dataset}.INFORMATION_SCHEMA.PARTITIONS` "
    "WHERE table_name = @table AND partition_id = @day"
)
"""Query of the metadata of a day's partition."""

BYTES_BILLED_PER_CHECK = 10 * 2**20
"""Bytes that BigQuery bills for the metadata of a day's partition."""


_unreadable_datasets: set[str] = set()
"""Datasets for which this process has logged that their partitions can't be read."""


def cost_usd(bytes_billed: int) -> float:
    return bytes_billed / 2**40 * USD_PER_TIB_BILLED


class BigQuerySource(Source):
    name = "bigquery"

    def __init__(self, client: bigquery.Client, settings: Settings) -> None:
        parse_by_orjson(client)
        self._client = client
        self._table = settings.bigquery_table
        self._columns = columns_with(settings.breakdowns_of(IngestSource.BIGQUERY))
        self._counted_files = settings.ingest_counted_files
        self._mirror_installers = settings.mirror_installers
        self._max_bytes_billed = settings.bigquery_max_bytes_billed
        self._packages = settings.ingest_packages or ()

    def counted_files(self, _: date) -> CountedFiles:
        return self._counted_files

    async def partition(self, day: date) -> Partition | None:
        dataset, _, table = self._table.rpartition(".")
        check = partial(call, CHECK_TIMEOUT_SECONDS, self._partition, dataset, table, day)
        try:
            partition: Partition | None = await attempts(f"{day}: partition", _is_worth_retry)(
                check
            )
        except SourceError as error:
            # A check only saves money, so its failure must not fail the day.
            if dataset not in _unreadable_datasets:
                _unreadable_datasets.add(dataset)
                log.warning(
                    "%s.INFORMATION_SCHEMA.PARTITIONS can't be read, so days are read and billed "
                    "again without a check for changes: %s",
                    *(dataset, error),
                )
            return None
        _unreadable_datasets.discard(dataset)
        return partition

    def _partition(self, dataset: str, table: str, day: date) -> Partition | None:
        job = self._submit(
            PARTITIONS.format(dataset=dataset),
            bigquery.ScalarQueryParameter("table", "STRING", table),
            bigquery.ScalarQueryParameter("day", "STRING", f"{day:%Y%m%d}"),
        )
        rows = job.result(retry=_retry(), timeout=CHECK_TIMEOUT_SECONDS)
        return next((Partition(*row.values()) for row in rows), None)

    async def begin(self, period: Period) -> str:
        return await self._begin(period, days_of(period))

    async def _begin(self, period: Period, days: Sequence[date]) -> str:
        """Start the query for a period. `days` are its days, or those of a day's group."""
        submit = partial(self._submit_count, period, days, self._text(period))
        job = await call(QUERY_TIMEOUT_SECONDS, submit)
        return f"{self._rules(period)}/{job.location or ''}/{job.job_id}"

    def _text(self, period: Period) -> str:
        return downloads_query(
            self._table, self._columns, period, self._counted_files, self._packages
        )

    def _rules(self, period: Period) -> str:
        """Return a hash of the counting rules. It is part of the query's id, so that no result by
        other rules is reused.
        """
        mirrors, packages = sorted(self._mirror_installers), self._packages
        rules = self._text(period), self._counted_files, mirrors, packages
        return blake2b(repr(rules).encode(), digest_size=8).hexdigest()

    async def read(self, period: Period, query: str | None) -> DayRows:
        assert query
        job, rows = await call(_timeout_seconds(period), self._results, period, query)
        batches, billed = self._batches(rows), job.total_bytes_billed or 0
        return DayRows(batches, billed, self._columns, queried_at=job.created)

    async def _batches(
        self, rows: bigquery.table.RowIterator
    ) -> AsyncGenerator[UnparsedDownloads, None]:
        received, pages, columns = 0, rows.pages, len(self._columns)
        while True:
            page = await call(QUERY_TIMEOUT_SECONDS, _next_page, pages, columns)
            if page is None:
                break
            received += len(page)
            yield page
        if received != rows.total_rows:
            raise SourceUnavailableError(
                f"BigQuery announced {rows.total_rows} rows and sent {received}"
            )

    def _results(
        self, period: Period, query: str
    ) -> tuple[bigquery.QueryJob, bigquery.table.RowIterator]:
        rules, location, job_id = query.split("/")
        if rules != self._rules(period):
            raise QueryLostError("BigQuery: the earlier query used other counting rules")
        try:
            job = self._client.get_job(
                job_id, location=location or None, retry=_retry(), timeout=CALL_TIMEOUT_SECONDS
            )
        except NotFound as error:
            raise QueryLostError("BigQuery: the query no longer exists") from error
        assert isinstance(job, bigquery.QueryJob)
        try:
            rows = job.result(page_size=PAGE_ROWS, retry=_retry(), timeout=_timeout_seconds(period))
        except GoogleAPIError as error:
            if job.error_result and is_temporary(error):
                raise QueryLostError(f"BigQuery: {one_line(error)}") from error
            raise
        return job, rows

    def bytes_billed(
        self,
        period: Period,
        breakdowns: Iterable[Breakdown] | None = None,
        counted_files: CountedFiles | None = None,
    ) -> int:
        """Return the bytes that BigQuery would bill for the period, from a free dry run.
        `breakdowns` and `counted_files` default to those of the source.
        """
        columns = self._columns if breakdowns is None else columns_with(breakdowns)
        query = downloads_query(
            self._table, columns, period, counted_files or self._counted_files, self._packages
        )
        with source_errors():
            job = self._submit_count(period, days_of(period), query, dry_run=True)
        return int(job.total_bytes_processed or 0)

    def _submit_count(
        self, period: Period, days: Sequence[date], query: str, *, dry_run: bool = False
    ) -> bigquery.QueryJob:
        # BigQuery compares the limit with the size of all rows, also those that it skips later.
        max_bytes_billed = self._max_bytes_billed * len(days)
        # A dry run bills nothing, and has to report sizes above the limit too.
        limit = {} if dry_run else {"maximum_bytes_billed": max_bytes_billed}
        return self._submit(
            query,
            bigquery.ScalarQueryParameter("start", "TIMESTAMP", start_of(min(days))),
            bigquery.ScalarQueryParameter("end", "TIMESTAMP", end_of(max(days))),
            bigquery.ArrayQueryParameter("mirror_installers", "STRING", self._mirror_installers),
            bigquery.ArrayQueryParameter("packages", "STRING", self._packages),
            dry_run=dry_run,
            job_timeout_ms=_timeout_seconds(period) * 1000,
            **limit,
        )

    def _submit(self, query: str, *parameters: object, **config: object) -> bigquery.QueryJob:
        return self._client.query(
            query,
            job_config=bigquery.QueryJobConfig(
                use_query_cache=False, query_parameters=parameters, **config
            ),
            retry=_retry(),
            timeout=CALL_TIMEOUT_SECONDS,
            # The client must not repeat a failed query by itself: it may have been billed.
            job_retry=None,
        )


def create_source(settings: Settings) -> BigQuerySource:
    """Create the source from the settings. Raises `SettingsError` if credentials or the project to
    bill are missing.
    """
    return BigQuerySource(create_client(settings), settings)


def _is_worth_retry(error: BaseException) -> bool:
    """Return True if the failed check should be retried. A check that timed out has used up its
    time, and is not retried.
    """
    return isinstance(error, SourceUnavailableError) and not isinstance(
        error.__cause__, TimeoutError
    )


def _timeout_seconds(period: Period) -> int:
    is_month = isinstance(period, Month)
    return MONTH_QUERY_TIMEOUT_SECONDS if is_month else QUERY_TIMEOUT_SECONDS


def _retry() -> Retry:
    return DEFAULT_RETRY.with_timeout(RETRY_FOR_SECONDS)


def _next_page(pages: Iterator[Page], columns: int) -> UnparsedDownloads | None:
    """Return the next page, which may be empty, or None after the last.

    The rows are read from the raw response, because the client converts rows by their schema, which
    takes longer than all other work on them.
    """
    page = next(pages, None)
    if page is None:
        return None
    rows = page.raw_page.get("rows", [])
    lines = [row["f"][0]["v"] for row in rows]
    # Free the memory: Google's client would hold the rows until the next page arrives.
    rows.clear()
    return _downloads(lines, columns)


def _downloads(lines: Sequence[str], columns: int) -> UnparsedDownloads:
    # The name comes last, because it may contain tabs. The pipeline rejects rows without a name.
    values = [line.split("\t", columns + 2) for line in lines]
    if not all(len(row) == columns + 3 for row in values):
        raise ValueError("a row has missing columns")
    if not values:
        return UnparsedDownloads((), (), (), ((),) * columns)
    with_mirrors, without_mirrors, *breakdowns, packages = zip(*values, strict=True)
    return UnparsedDownloads(
        packages, tuple(map(int, with_mirrors)), tuple(map(int, without_mirrors)), breakdowns
    )
