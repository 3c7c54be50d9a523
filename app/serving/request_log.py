"""The metrics and the log lines of requests."""

from collections.abc import Callable, Collection
from functools import lru_cache
from time import perf_counter

from prometheus_client import Counter, Histogram

from app.logs import RequestLine
from app.metrics import REQUEST_SECONDS, REQUESTS
from app.serving.rejection_log import RejectionLog
from app.serving.request import IncomingRequest

REJECTIONS = frozenset({401, 429})
"""Statuses of requests that are rejected because of their client."""

LOGGED_CHARACTERS = 300
"""Maximum length of a path, and of a query, in the log."""


class RequestLog:
    """Counts requests and logs them, or only counts them if `write_line` is None.

    Of a query only the `known_arguments` are logged. Others may be secrets sent by mistake.
    """

    def __init__(
        self,
        write_line: Callable[[RequestLine], None] | None,
        rejections: RejectionLog,
        known_arguments: Collection[str],
    ) -> None:
        self._write_line = write_line
        self._rejections = rejections
        self._known_arguments = frozenset(name.encode() for name in known_arguments)

    def note(self, request: IncomingRequest) -> None:
        """Count and log a request after its response."""
        seconds = perf_counter() - request.began
        requests, durations = _metrics(request.route, request.status)
        requests.inc()
        durations.observe(seconds)
        if self._write_line and (
            request.status not in REJECTIONS or self._rejections.admits(request.client)
        ):
            # Positional arguments take half the time.
            line = RequestLine(
                request.method,
                _cut(request.raw_path),
                self._known_query(request.query) if request.query else "",
                request.status,
                request.size,
                round(seconds * 1000, 2),
                request.client,
                request.id,
            )
            self._write_line(line)

    def _known_query(self, query: bytes) -> str:
        given = query.split(b"&")
        known = [one for one in given if one.partition(b"=")[0] in self._known_arguments]
        return _cut(b"&".join(known))


@lru_cache(maxsize=1024)
def _metrics(template: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(template, status), REQUEST_SECONDS.labels(template)


def _cut(text: bytes) -> str:
    """Return the beginning of a percent-encoded text, which can't contain a line break."""
    return text[:LOGGED_CHARACTERS].decode("ascii", "backslashreplace")
