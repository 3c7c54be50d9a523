"""The source that counts downloads in PyPI's public BigQuery table."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from hashlib import blake2b
from typing import TypeVar

from google.api_core.exceptions import ClientError, GoogleAPIError, NotFound
from google.api_core.page_iterator import Page
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY

from app.domain.breakdowns import Breakdown, columns_with
from app.domain.downloads import Partition, UnparsedDownloads
from app.domain.events import CountedFiles
from app.errors import QueryLostError, SourceUnavailableError
from app.ingest.sources.bigquery_client import (
    create_client,
    in_thread,
    may_pass,
    one_line,
    parse_by_orjson,
    source_errors,
)
from app.ingest.sources.day_query import day_query
from app.ingest.sources.source import Reading
from app.settings import IngestSource, Settings

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PAGE_ROWS = 10_000
"""Maximum rows per page. Parsing a page blocks the event loop for about 5 ms."""

RETRY_SECONDS = 60
"""How long the client retries a call after a temporary failure."""

REQUEST_TIMEOUT_SECONDS = 60
QUERY_TIMEOUT_SECONDS = 900
"""Maximum duration of a day's query, which takes about a minute, and of each page of rows."""

USD_PER_TIB_BILLED = 6.25
"""On-demand price of a query in the US multi-region, beyond the first TiB of each month."""

PARTITIONS = (
    "SELECT total_rows, last_modified_time FROM `{dataset}.INFORMATION_SCHEMA.PARTITIONS` "
    "WHERE table_name = @table AND partition_id = @day"
)
"""Query of the metadata of a day's partition."""

BYTES_BILLED_PER_CHECK = 10 * 2**20
"""Bytes that BigQuery bills for the metadata of a day's partition."""


def cost_usd(bytes_billed: int) -> float:
    return bytes_billed / 2**40 * USD_PER_TIB_BILLED


class BigQuerySource:
    name = "bigquery"

    def __init__(
        self,
        client: bigquery.Client,
        *,
        table: str,
        mirror_installers: Sequence[str],
        breakdowns: Iterable[Breakdown],
        counted_files: CountedFiles = CountedFiles.ALL,
        max_bytes_billed: int,
    ) -> None:
        self._client = client
        parse_by_orjson(client)
        self._table = table
        self._columns = columns_with(breakdowns)
        self._counted_files = counted_files
        self._mirror_installers = mirror_installers
        self._max_bytes_billed = max_bytes_billed

    async def origin(self, _: date) -> str:
        return self.name

    def counted_files(self, _: date) -> CountedFiles:
        return self._counted_files

    async def partition(self, day: date) -> Partition | None:
        return await _call(self._partition, day)

    def _partition(self, day: date) -> Partition | None:
        dataset, _, table = self._table.rpartition(".")
        config = bigquery.QueryJobConfig(
            use_query_cache=False,
            query_parameters=[
                bigquery.ScalarQueryParameter("table", "STRING", table),
                bigquery.ScalarQueryParameter("day", "STRING", f"{day:%Y%m%d}"),
            ],
        )
        retry = DEFAULT_RETRY.with_timeout(RETRY_SECONDS)
        try:
            job = self._client.query(
                PARTITIONS.format(dataset=dataset),
                job_config=config,
                retry=retry,
                timeout=REQUEST_TIMEOUT_SECONDS,
                job_retry=None,
            )
            rows = job.result(retry=retry, timeout=QUERY_TIMEOUT_SECONDS)
            return next((Partition(*row.values()) for row in rows), None)
        except ClientError as error:
            if may_pass(error):
                raise
            _log_unreadable(dataset, type(error).__name__, one_line(error))
            return None

    async def begin(self, day: date) -> str:
        text = day_query(self._table, self._columns, day, self._counted_files)
        job = await _call(self._submit, day, text)
        return f"{self._rules(day)}/{job.location or ''}/{job.job_id}"

    def _rules(self, day: date) -> str:
        """Return a hash of the counting rules. It is part of the query's id, so that results by
        other rules are not reused.
        """
        text = day_query(self._table, self._columns, day, self._counted_files)
        rules = text, self._counted_files, sorted(self._mirror_installers)
        return blake2b(repr(rules).encode(), digest_size=8).hexdigest()

    async def read(self, day: date, query: str | None) -> Reading:
        assert query
        job, rows = await _call(self._results, day, query)
        return Reading(
            self._batches(rows),
            job.total_bytes_billed or 0,
            self._columns,
            queried_at=job.created,
        )

    async def _batches(
        self, rows: bigquery.table.RowIterator
    ) -> AsyncGenerator[UnparsedDownloads, None]:
        received = 0
        pages = rows.pages
        while (page := await _call(_next_page, pages, len(self._columns))) is not None:
            received += len(page)
            yield page
        if received != rows.total_rows:
            raise SourceUnavailableError(
                f"BigQuery announced {rows.total_rows} rows and sent {received}"
            )

    def _results(
        self, day: date, query: str
    ) -> tuple[bigquery.QueryJob, bigquery.table.RowIterator]:
        rules, location, job_id = query.split("/")
        if rules != self._rules(day):
            raise QueryLostError("BigQuery: the query has other counting rules")
        retry = DEFAULT_RETRY.with_timeout(RETRY_SECONDS)
        try:
            job = self._client.get_job(
                job_id, location=location or None, retry=retry, timeout=REQUEST_TIMEOUT_SECONDS
            )
        except NotFound as error:
            raise QueryLostError("BigQuery: the query no longer exists") from error
        assert isinstance(job, bigquery.QueryJob)
        try:
            rows = job.result(page_size=PAGE_ROWS, retry=retry, timeout=QUERY_TIMEOUT_SECONDS)
        except GoogleAPIError as error:
            if job.error_result and may_pass(error):
                raise QueryLostError(f"BigQuery: {one_line(error)}") from error
            raise
        return job, rows

    def bytes_billed(
        self,
        day: date,
        breakdowns: Iterable[Breakdown] | None = None,
        counted_files: CountedFiles | None = None,
    ) -> int:
        """Return the bytes that the day's query would bill, by a free dry run. `breakdowns` and
        `counted_files` default to those of the source.
        """
        columns = self._columns if breakdowns is None else columns_with(breakdowns)
        query = day_query(self._table, columns, day, counted_files or self._counted_files)
        with source_errors():
            return int(self._submit(day, query, dry_run=True).total_bytes_processed or 0)

    def _submit(self, day: date, query: str, *, dry_run: bool = False) -> bigquery.QueryJob:
        start = datetime.combine(day, time.min, UTC)
        config = bigquery.QueryJobConfig(
            dry_run=dry_run,
            use_query_cache=False,
            job_timeout_ms=QUERY_TIMEOUT_SECONDS * 1000,
            query_parameters=[
                bigquery.ScalarQueryParameter("start", "TIMESTAMP", start),
                bigquery.ScalarQueryParameter("end", "TIMESTAMP", start + timedelta(days=1)),
                bigquery.ArrayQueryParameter(
                    "mirror_installers", "STRING", list(self._mirror_installers)
                ),
            ],
        )
        # A dry run bills nothing, and has to report sizes above the limit too.
        if not dry_run:
            config.maximum_bytes_billed = self._max_bytes_billed
        return self._client.query(
            query,
            job_config=config,
            retry=DEFAULT_RETRY.with_timeout(RETRY_SECONDS),
            timeout=REQUEST_TIMEOUT_SECONDS,
            # The client must not repeat a failed query by itself: it may have been billed.
            job_retry=None,
        )


def create_source(settings: Settings) -> BigQuerySource:
    """Return the source that the settings describe, with their credentials or those that Google's
    library finds. Raises `SettingsError` if credentials or the project to bill are missing.
    """
    return BigQuerySource(
        create_client(settings),
        table=settings.bigquery_table,
        mirror_installers=settings.mirror_installers,
        breakdowns=settings.breakdowns_of(IngestSource.BIGQUERY),
        counted_files=settings.ingest_counted_files,
        max_bytes_billed=settings.bigquery_max_bytes_billed,
    )


_unreadable_datasets: set[str] = set()
"""Datasets whose partitions this process has logged as unreadable."""


def _log_unreadable(dataset: str, kind: str, reason: str) -> None:
    """Log once per process why a dataset's partitions can't be checked."""
    if dataset in _unreadable_datasets:
        return
    _unreadable_datasets.add(dataset)
    log.warning(
        "%s.INFORMATION_SCHEMA.PARTITIONS can't be read, so days are read and billed again without "
        "a check for changes: %s: %s",
        dataset,
        kind,
        reason,
    )


async def _call(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function of Google's client in a thread. Raises `SourceError`."""
    with source_errors():
        return await in_thread(QUERY_TIMEOUT_SECONDS, function, *arguments)


def _next_page(pages: Iterator[Page], columns: int) -> UnparsedDownloads | None:
    """Return the next page, which may be empty, or None after the last.

    It is built from the raw response. Google's client would convert the rows by their schema, which
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
    # The name comes last and may contain tabs. The pipeline rejects rows without a name.
    values = [line.split("\t", columns + 2) for line in lines]
    if not all(len(row) == columns + 3 for row in values):
        raise ValueError("a row has missing columns")
    if not values:
        return UnparsedDownloads((), (), (), ((),) * columns)
    with_mirrors, without_mirrors, *breakdowns, packages = zip(*values, strict=True)
    return UnparsedDownloads(
        packages, tuple(map(int, with_mirrors)), tuple(map(int, without_mirrors)), breakdowns
    )
