"""Headers that every response has: those of CORS, and those that protect browsers.

Any page may read any response except the metrics, so the CORS headers are constants.
"""

from collections.abc import Mapping
from contextvars import ContextVar

path_prefix: ContextVar[str] = ContextVar("path_prefix", default="")
"""Prefix that a proxy has removed from the path of the current request. Links begin with it."""

Headers = list[tuple[bytes, bytes]]
"""Headers as ASGI represents them, with names in lower case."""

DATA_AS_OF = "X-Data-As-Of"
"""Header with the latest published day."""

DATA_SOURCE = "X-Data-Source"
"""Header of responses whose figures are sample data."""

WITHOUT_BODY = "pypi_stats.without_body"
"""Key in a request's scope. Its value is True if the response gets no body, as for HEAD."""

FIXED_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": (
        f"Accept-Ranges, Age, Content-Range, ETag, Retry-After, {DATA_AS_OF}, {DATA_SOURCE}, "
        "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-ID"
    ),
    "X-Content-Type-Options": "nosniff",
}

DEFAULT_HEADERS = {
    # Responses other than pages must not run or load anything.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # Errors and current figures can change at any time.
    "Cache-Control": "no-cache",
}
"""Headers of responses that do not set their own."""

PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    # The wildcard does not include `Authorization`.
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "86400",
}


def raw_headers(headers: Mapping[str, str]) -> Headers:
    """Return headers as ASGI represents them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


PRIVATE_PATHS = frozenset({"/metrics"})
"""Paths that pages of other origins may not read."""

_FIXED = raw_headers(FIXED_HEADERS)
_PRIVATE = [header for header in _FIXED if not header[0].startswith(b"access-control-")]
DEFAULTS = raw_headers(DEFAULT_HEADERS)


def completed(headers: Headers, defaults: Headers = DEFAULTS, path: str = "") -> Headers:
    """Return the headers with those that every response at the path has, and with each default that
    is not set.
    """
    given = dict(headers)
    fixed = _PRIVATE if path in PRIVATE_PATHS else _FIXED
    return [*headers, *fixed, *(header for header in defaults if header[0] not in given)]


def lines(headers: Headers) -> bytes:
    """Return headers as bytes on the wire."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def from_lines(header_lines: bytes) -> Headers:
    """Parse headers from bytes on the wire."""
    pairs = (line.partition(b": ") for line in header_lines.splitlines())
    return [(name, value) for name, _, value in pairs]
