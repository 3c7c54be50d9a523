"""The metrics. `docs/metrics.md` is generated from this file.

Server processes store their figures in files in one folder, `PROMETHEUS_MULTIPROC_DIR`, so that
each process can return the figures of all.
"""

import os
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
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.domain.clock import Clock

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

REQUESTS = Counter(
    "pypi_stats_requests",
    "Requests, by path template and status.",
    ["route", "status"],
)
REQUEST_SECONDS = Histogram(
    "pypi_stats_request_seconds",
    "Time from a request's head to the last byte of its response.",
    ["route"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RESPONSE_CACHE = Counter(
    "pypi_stats_response_cache",
    "Data requests by how they were answered: tag_match (the client's copy is current), hit "
    "(memory), miss (the database).",
    ["outcome"],
)
RESPONSE_CACHE_BYTES = Gauge(
    "pypi_stats_response_cache_bytes",
    "Memory used by the response cache.",
    multiprocess_mode="livesum",
)
RATE_LIMITED = Counter("pypi_stats_rate_limited", "Requests refused with status 429.")
RATE_LIMIT_STORAGE_UP = Gauge(
    "pypi_stats_rate_limit_storage_up",
    "1 while the shared storage of the limits is used, 0 while it can't be reached and each "
    "process counts for itself. Missing without such a storage.",
    ["storage"],
    multiprocess_mode="livemin",
)
DATABASE_CONNECTIONS = Gauge(
    "pypi_stats_database_connections",
    "Connections of the pool that requests use.",
    multiprocess_mode="livesum",
)
DATABASE_CONNECTIONS_LIMIT = Gauge(
    "pypi_stats_database_connections_limit",
    "Connections that the pool may open.",
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


class ObservedRun:
    """A run of the ingest job."""

    success: bool | None = False
    """None if there was nothing to do, which does not count as a run."""


@contextmanager
def observe_ingest(source: str, clock: Clock) -> Iterator[ObservedRun]:
    """Record a run of the ingest job. It failed unless the caller sets `success`."""
    run = ObservedRun()
    began = monotonic()
    try:
        yield run
    finally:
        if run.success is not None:
            INGEST_SUCCESS.labels(source).set(run.success)
            INGEST_SECONDS.labels(source).set(monotonic() - began)
            INGEST_TIMESTAMP.labels(source).set(clock().timestamp())


@dataclass(frozen=True, slots=True)
class PublishedData(Collector):
    """Figures of the publication that all processes share. NaN if nothing is published."""

    age_days: float
    missing_days: float
    held_days: float
    suspect_days: float

    def collect(self) -> Iterator[Metric]:
        for name, meaning, value in (
            (
                "data_age",
                "Days since the latest published day ended. Usually 0 to 1, and some hours.",
                self.age_days,
            ),
            (
                "missing",
                "Days before the latest published one that should be served and are not published.",
                self.missing_days,
            ),
            ("held", "Days that are held because they do not look plausible.", self.held_days),
            (
                "suspect",
                "Published days that deviate from their neighbours.",
                self.suspect_days,
            ),
        ):
            yield GaugeMetricFamily(f"pypi_stats_{name}_days", meaning, value)


def exposition(data: PublishedData) -> bytes:
    """Return all metrics in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(data)
    folder = os.environ.get(MULTIPROCESS_FOLDER)
    if folder:
        MultiProcessCollector(registry, folder)
        return generate_latest(registry)
    return generate_latest(REGISTRY) + generate_latest(registry)
