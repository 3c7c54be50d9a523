"""What Prometheus is told.

With several server processes each keeps its figures in files of a folder that they share, named by
`PROMETHEUS_MULTIPROC_DIR`, so that whichever process is asked answers for all of them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from app.domain.clock import Clock

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

REQUESTS = Counter(
    "pypi_stats_requests",
    "Requests, by the route's template and the answer's status.",
    ["route", "status"],
)
REQUEST_SECONDS = Histogram(
    "pypi_stats_request_seconds",
    "Time from a request's head to the last byte of its answer.",
    ["route"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RESPONSE_CACHE = Counter(
    "pypi_stats_response_cache",
    "Data requests, by what answered them: tag_match (the client's own copy is right), "
    "hit (memory), miss (the database).",
    ["outcome"],
)
RESPONSE_CACHE_BYTES = Gauge(
    "pypi_stats_response_cache_bytes",
    "Memory that the response cache takes.",
    multiprocess_mode="livesum",
)
RATE_LIMITED = Counter("pypi_stats_rate_limited", "Requests that were refused with status 429.")
RATE_LIMIT_STORAGE_UP = Gauge(
    "pypi_stats_rate_limit_storage_up",
    "1 while the limits' shared storage is used, 0 while it is away and each process counts for "
    "itself. Not there without such a storage.",
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
    "1 when no day failed in the last run of the ingest job, else 0. Not there before the first "
    "run in this process.",
    ["source"],
    multiprocess_mode="mostrecent",
)
INGEST_SECONDS = Gauge(
    "pypi_stats_last_ingest_seconds",
    "How long that run took.",
    ["source"],
    multiprocess_mode="mostrecent",
)
INGEST_TIMESTAMP = Gauge(
    "pypi_stats_last_ingest_timestamp_seconds",
    "When that run ended, in seconds since 1970.",
    ["source"],
    multiprocess_mode="mostrecent",
)


class ObservedRun:
    """One run of the ingest job, which failed unless it says otherwise. None is no run at all."""

    success: bool | None = False


@contextmanager
def observe_ingest(source: str, clock: Clock) -> Iterator[ObservedRun]:
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
    """What is published: the same in every process, whichever of them published it, and known when
    it is asked for. Not a number while nothing is published.
    """

    age_days: float
    missing_days: float
    held_days: float
    suspect_days: float

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "pypi_stats_data_age_days",
            "Days since the latest published day ended: 0 to 1, and some hours, when all is well.",
            self.age_days,
        )
        yield GaugeMetricFamily(
            "pypi_stats_missing_days",
            "Days before the latest published one that should be served and are not published.",
            self.missing_days,
        )
        yield GaugeMetricFamily(
            "pypi_stats_held_days",
            "Days that were read and are held, since they do not look plausible.",
            self.held_days,
        )
        yield GaugeMetricFamily(
            "pypi_stats_suspect_days",
            "Days that are published and deviate from their neighbours.",
            self.suspect_days,
        )


def exposition(data: PublishedData) -> bytes:
    """All of it, as Prometheus reads it."""
    registry = CollectorRegistry()
    registry.register(data)
    folder = os.environ.get(MULTIPROCESS_FOLDER)
    if folder:
        MultiProcessCollector(registry, folder)
        return generate_latest(registry)
    return generate_latest(REGISTRY) + generate_latest(registry)


def forget_ended_processes() -> None:
    """Leave out what processes had in use that are no more: one in the place of each has begun."""
    folder = os.environ.get(MULTIPROCESS_FOLDER)
    if not folder:
        return
    for file in Path(folder).glob("gauge_live*.db"):
        process = int(file.stem.rpartition("_")[2])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            mark_process_dead(process, folder)
