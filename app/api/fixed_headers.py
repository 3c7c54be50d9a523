"""What every answer says, whatever it is: that any page may read it, and what browsers may not do.

CORS without Starlette's middleware: that answers to the Origin header and says so in Vary, which
makes a cache in front keep every answer once for each page that asks.
"""

from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]
"""As ASGI has them, names in lower case."""

DATA_AS_OF = "X-Data-As-Of"
"""Header with the latest published day."""

ADDED_HEADERS = "pypi_stats.added_headers"
"""In a request's scope: a list of headers that those whom it meets add to its answer."""

FIXED_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": (
        f"Age, ETag, Retry-After, {DATA_AS_OF}, X-RateLimit-Limit, X-RateLimit-Remaining, "
        "X-RateLimit-Reset, X-Request-ID"
    ),
    "X-Content-Type-Options": "nosniff",
}

DEFAULT_HEADERS = {
    # Of what is no page: nothing in it is run or loaded.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # Of errors, and of what may be another a moment later.
    "Cache-Control": "no-cache",
}
"""On answers that don't say otherwise."""

PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "86400",
}


def _raw(headers: dict[str, str]) -> Headers:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


_FIXED = _raw(FIXED_HEADERS)
_DEFAULTS = _raw(DEFAULT_HEADERS)


def completed(headers: Headers, defaults: Headers = _DEFAULTS) -> Headers:
    """The headers with those that every response has, and with the defaults of those that are
    missing.
    """
    given = dict(headers)
    return [*headers, *_FIXED, *(header for header in defaults if header[0] not in given)]


def lines(headers: Headers) -> bytes:
    """As they go over the wire."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class FixedHeadersMiddleware:
    """Adds the headers that every response has, and answers the preflight requests of browsers.

    `of_the_moment` returns headers for responses that do not have them already.
    """

    def __init__(self, app: ASGIApp, of_the_moment: Callable[[], Headers]) -> None:
        self._app = app
        self._of_the_moment = of_the_moment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        added = scope[ADDED_HEADERS]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *added]
                message["headers"] = completed(headers, [*_DEFAULTS, *self._of_the_moment()])
            await send(message)

        answer = _preflight if _is_preflight(scope) else self._app
        await answer(scope, receive, send_with_headers)


def _is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )


_preflight = Response(status_code=204, headers=PREFLIGHT_HEADERS)
