"""The metrics. The table in `docs/operations.md` is generated from this file.

Several server processes store their figures in one folder, `PROMETHEUS_MULTIPROC_DIR`, so that each
process can return the figures of all.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from app.domain.clock import Clock

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

REQUESTS = Counter(
    "pypi_stats_requests",
    "Requests, by path template, status, and result of the cache lookup: hit, tag_match (the "
    "client's copy is current), miss (the response was computed), none (no lookup, or an error "
    "before it).",
    ["route", "status", "cache"],
)
REQUEST_SECONDS = Histogram(
    "pypi_stats_request_seconds",
    "Time from a request's head to the last byte of its response.",
    ["route"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RESPONSE_CACHE_BYTES = Gauge(
    "pypi_stats_response_cache_bytes",
    "Memory used by the response cache.",
    multiprocess_mode="livesum",
)
RATE_LIMITED = Counter("pypi_stats_rate_limited", "Requests refused with status 429.")
CONNECTIONS = Gauge(
    "pypi_stats_connections", "Open connections of clients.", multiprocess_mode="livesum"
)
CONNECTIONS_CLOSED = Counter(
    "pypi_stats_connections_closed",
    "Connections that the service has aborted, by reason: client and total (the limits of open "
    "connections), stalled (the client does not read), unread (responses that clients do not read "
    "take too much memory).",
    ["reason"],
)
LOG_LINES_DROPPED = Counter(
    "pypi_stats_log_lines_dropped",
    "Log lines that were dropped because standard error did not accept them in time.",
)
RATE_LIMIT_STORAGE_UP = Gauge(
    "pypi_stats_rate_limit_storage_up",
    "1 while the shared storage of the limits is used, 0 while it can't be reached and each "
    "process counts for itself. Missing without such a storage.",
    ["storage"],
    multiprocess_mode="livemin",
)
DATABASE_CONNECTIONS = Gauge(
    "pypi_stats_database_connections",
    "Connections of the pool for requests that are in use.",
    multiprocess_mode="livesum",
)
DATABASE_CONNECTIONS_LIMIT = Gauge(
    "pypi_stats_database_connections_limit",
    "Maximum number of connections of the pool for requests.",
    multiprocess_mode="livesum",
)
INGEST_SUCCESS = Gauge(
    "pypi_stats_last_ingest_success",
    "1 if no day failed in the last run of the ingest job, else 0. Missing before the first run.",
    ["source"],
    multiprocess_mode="mostrecent",
)
INGEST_SECONDS = Gauge(
    "pypi_stats_last_ingest_seconds",
    "Duration of the last run of the ingest job.",
    ["source"],
    multiprocess_mode="mostrecent",
)
INGEST_TIMESTAMP = Gauge(
    "pypi_stats_last_ingest_timestamp_seconds",
    "End of the last run of the ingest job, in seconds since 1970.",
    ["source"],
    multiprocess_mode="mostrecent",
)


class JobRun:
    success: bool | None = False
    """True if no day failed. None leaves the metrics unchanged: no day was due, but failed days
    still wait for a retry.
    """


@contextmanager
def observe_ingest(source: str, clock: Clock) -> Iterator[JobRun]:
    """Record a run of the ingest job. It counts as failed unless the caller sets `success`."""
    run = JobRun()
    began = monotonic()
    try:
        yield run
    finally:
        if run.success is not None:
            INGEST_SUCCESS.labels(source).set(run.success)
            INGEST_SECONDS.labels(source).set(monotonic() - began)
            INGEST_TIMESTAMP.labels(source).set(clock().timestamp())


@dataclass(frozen=True, slots=True)
class PublicationMetrics(Collector):
    """Figures of the publication that all processes share. NaN if nothing is published."""

    data_age_seconds: float
    missing_dates: float
    held_dates: float
    suspect_dates: float

    def collect(self) -> Iterator[Metric]:
        # Prometheus's naming rules allow no other unit of time than seconds, so days are "dates".
        for name, meaning in (
            (
                "data_age_seconds",
                "Time since the latest published day ended. Usually up to a day and some hours.",
            ),
            (
                "missing_dates",
                "Days before the latest published one that should be served but are not published.",
            ),
            ("held_dates", "Days that are held because their figures are not plausible."),
            ("suspect_dates", "Published days whose figures deviate from those of neighbours."),
        ):
            yield GaugeMetricFamily(f"pypi_stats_{name}", meaning, getattr(self, name))


def exposition(data: PublicationMetrics, accept: str) -> tuple[bytes, str]:
    """Return all metrics and their media type: OpenMetrics if the client accepts it, or else the
    text format of Prometheus.
    """
    registry = CollectorRegistry()
    registry.register(data)
    folder = os.environ.get(MULTIPROCESS_FOLDER)
    if folder:
        MultiProcessCollector(registry, folder)
    else:
        registry.register(REGISTRY)
    # The library's own negotiation raises an exception if a version is not a number.
    if any(_is_open_metrics(one) for one in accept.lower().split(",")):
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def _is_open_metrics(media_range: str) -> bool:
    media_type, *parameters = (part.strip() for part in media_range.split(";"))
    is_refused = any(re.fullmatch(r"q=0(\.0*)?", one) for one in parameters)
    return media_type == "application/openmetrics-text" and not is_refused
