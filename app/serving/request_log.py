"""The metrics and the log lines of requests."""

import asyncio
from collections import Counter
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from time import perf_counter

import orjson
from prometheus_client import Histogram

from app.domain.clock import Clock
from app.logs import LOG_STREAM
from app.metrics import REQUEST_SECONDS, REQUESTS
from app.serving.log_line_limit import LogLineLimit
from app.serving.request import IncomingRequest

REJECTIONS = frozenset({401, 429})
"""Statuses of requests that are rejected because of their client."""

LOGGED_CHARACTERS = 300
"""Maximum length of a path, and of a query, in the log."""

FLUSH_SECONDS = 0.1
"""Maximum time between a request and its metrics and log line.

Counting and formatting many requests together takes a third of the time, because code and data stay
in the processor's caches, and one system call writes all lines.
"""

FLUSHED_REQUESTS = 128
"""Maximum number of requests that are logged together. Their lines have some 100 KiB at most."""

_TEXT = "%sZ [info     ] %s %s%s %d [app.requests] bytes=%d ms=%.2f client=%s request_id=%s\n"


class RequestLog:
    """Counts requests and logs them in the format of `configure_logging`, or only counts them if
    `log_format` is None.

    The rate limit also limits the log lines of a client. `rejections` limits those about rejected
    requests, and `uncounted` those about requests without a limit. `uncounted` is None if there are
    no rate limits.

    Only `known_arguments` of a query are logged, because others may be secrets sent by mistake.
    """

    def __init__(
        self,
        log_format: str | None,
        rejections: LogLineLimit,
        uncounted: LogLineLimit | None,
        known_arguments: Collection[str],
        clock: Clock,
    ) -> None:
        self._is_logged = log_format is not None
        self._is_json = log_format == "json"
        self._rejections = rejections
        self._uncounted = uncounted
        self._known_arguments = frozenset(name.encode() for name in known_arguments)
        self._clock = clock
        self._queued: list[tuple[IncomingRequest, float, datetime]] = []
        """Requests that are not counted yet, with their seconds and their times."""

    def record(self, request: IncomingRequest) -> None:
        """Queue a request with a response to be counted and logged."""
        self._queued.append((request, perf_counter() - request.began, self._clock()))
        if len(self._queued) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        elif len(self._queued) >= FLUSHED_REQUESTS:
            self.flush()

    def flush(self) -> None:
        """Count and log all queued requests."""
        queued, self._queued = self._queued, []
        counts = Counter([(one.route, one.status, one.cache) for one, _, _ in queued])
        for labels, count in counts.items():
            REQUESTS.labels(*labels).inc(count)
        for request, seconds, _ in queued:
            _durations(request.route).observe(seconds)
        if self._is_logged:
            lines = [self._line(*one) for one in queued if self._is_admitted(one[0])]
            if lines:
                LOG_STREAM.write_bytes(b"".join(lines))

    def _is_admitted(self, request: IncomingRequest) -> bool:
        if request.status in REJECTIONS:
            return self._rejections.admits(request.client)
        if self._uncounted and not request.is_counted:
            return self._uncounted.admits(request.client)
        return True

    def _line(self, request: IncomingRequest, seconds: float, time: datetime) -> bytes:
        # Formatting a line with structlog takes ten times as long.
        timestamp = time.isoformat(timespec="microseconds")[:-6]
        ms = seconds * 1000
        path = _cut(request.raw_path)
        # A query makes a line three times as long, and does not explain a rejection.
        is_shown = request.query and request.status not in REJECTIONS
        query = self._known_query(request.query) if is_shown else ""
        status, size, client = request.status, request.size, request.client
        if self._is_json:
            fields = {
                "event": "request",
                "logger": "app.requests",
                "level": "info",
                "timestamp": f"{timestamp}Z",
                "method": request.method,
                "path": path,
                "query": query,
                "status": status,
                "bytes": size,
                "ms": round(ms, 2),
                "client": client,
                "request_id": request.id,
            }
            return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
        shown = f"?{query}" if query else ""
        text = (timestamp, request.method, path, shown, status, size, ms, client, request.id)
        return (_TEXT % text).encode()

    def _known_query(self, query: bytes) -> str:
        given = query.split(b"&")
        known = [one for one in given if one.partition(b"=")[0] in self._known_arguments]
        return _cut(b"&".join(known))


@lru_cache(maxsize=1024)
def _durations(route: str) -> Histogram:
    return REQUEST_SECONDS.labels(route)


def _cut(text: bytes) -> str:
    """Return the beginning of a percent-encoded text, which can't contain a line break."""
    return text[:LOGGED_CHARACTERS].decode("ascii", "backslashreplace")
