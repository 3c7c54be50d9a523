"""Answers what the response cache holds, before the server makes a task for the request.

Nothing has to be waited for then, and the way through the middlewares takes several times as long
as all of this. It does what they would do, or leaves it to them.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from time import perf_counter

from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.api.compression import preferred_encoding
from app.api.fixed_headers import Headers, completed, lines
from app.api.formats import accepted_format
from app.api.freshness import Freshness
from app.api.http_cache import HIT, TAG_MATCH, Answer, ResponseCache
from app.api.questions import LONGEST_KNOWN_SPELLING, Endpoints
from app.api.rate_limit import (
    LIMITED_PREFIX,
    RATE_LIMIT_STATE,
    RateLimits,
    RateLimitState,
    client_of,
)
from app.api.request_log import RequestLog, id_of
from app.clock import Clock
from app.downloads import Publication

_LIMITED_PREFIX = LIMITED_PREFIX.encode()
"""All that is kept is below it."""

_STATUS_LINES = {200: b"HTTP/1.1 200 OK\r\n", 304: b"HTTP/1.1 304 Not Modified\r\n"}


class FastPath:
    def __init__(
        self,
        cache: ResponseCache,
        endpoints: Endpoints,
        freshness: Freshness,
        rate_limits: RateLimits | None,
        log: RequestLog,
        trusted_proxies: list[str],
        clock: Clock,
    ) -> None:
        self._cache = cache
        self._endpoints = endpoints
        self._freshness = freshness
        self._rate_limits = rate_limits
        self._log = log
        self._clock = clock
        self._proxy_headers = (
            ProxyHeadersMiddleware(_nothing, trusted_proxies) if trusted_proxies else None
        )
        self._common = b""
        self._common_of: tuple[Publication | None, Headers, int] = None, [], 0

    def answer(
        self, scope: Scope, method: str, target: bytes, server_headers: Headers
    ) -> tuple[bytes, bytes] | None:
        """Head and body of the answer to a request that has no body, as they go over the wire; None
        where the middlewares should answer.

        Of the scope, type, client and headers have to be there. `server_headers` go before our own.
        """
        began = perf_counter()
        given = scope["headers"]
        headers: dict[bytes, bytes] = dict(given)
        publication = self._freshness.publication
        if (
            publication is None
            or method not in {"GET", "HEAD"}
            or not target.startswith(_LIMITED_PREFIX)
            # Of a header that is there twice both count.
            or len(headers) != len(given)
            or (self._rate_limits and self._rate_limits.waits)
        ):
            return None
        # First: what a client asks beyond its limits is not looked at.
        state = self._count(scope)
        if state and state.exceeded:
            return None
        kept = self._kept(target, headers, publication)
        if kept is None:
            return None
        tag = headers.get(b"if-none-match")
        if not _is_simple(tag, kept, headers):
            return None
        request_id = id_of(headers)
        if tag:
            TAG_MATCH.inc()
            status, content, body = 304, b"", b""
        else:
            HIT.inc()
            status, content, body = 200, kept.content_lines, kept.body
        if method == "HEAD":
            body = b""
        path, _, query = target.partition(b"?")
        self._log.note(
            kept.endpoint.route.path,
            status,
            perf_counter() - began,
            method=method,
            path=path,
            query=query,
            size=len(body),
            client=scope["client"],
            request_id=request_id,
        )
        now = self._clock()
        common = self._common_lines(publication, server_headers, now)
        limits = state.headers(now) if state else []
        own = lines([(b"x-request-id", request_id.encode()), *limits])
        said = _STATUS_LINES[status], common, content, kept.tag_lines, own, b"\r\n"
        return b"".join(said), body

    def _count(self, scope: Scope) -> RateLimitState | None:
        """Count the request, which the middlewares then do not. None without limits."""
        if self._proxy_headers:
            # It waits for nothing, so that its first step is its last. uvicorn has types of its own
            # for what both take from ASGI.
            with suppress(StopIteration):
                self._proxy_headers(scope, _nothing, _nothing).send(None)  # type: ignore[arg-type]
        if not self._rate_limits:
            return None
        state = scope[RATE_LIMIT_STATE] = self._rate_limits.count_at_once(client_of(scope))
        return state

    def _kept(
        self, target: bytes, headers: Mapping[bytes, bytes], publication: Publication
    ) -> Answer | None:
        encoding = preferred_encoding(headers.get(b"accept-encoding", b""))
        accepted = accepted_format(headers.get(b"accept", b""))
        kept = None if accepted else self._cache.get(target, encoding)
        # What follows a # is no part of a request.
        if kept or len(target) > LONGEST_KNOWN_SPELLING or b"#" in target:
            return kept
        # It may have been asked for in another spelling.
        path, _, query = target.partition(b"?")
        asked = self._endpoints.asked(path.decode("latin-1"), query, publication.window, accepted)
        return asked and self._cache.get(asked.target, encoding)

    def _common_lines(
        self, publication: Publication, server_headers: Headers, now: datetime
    ) -> bytes:
        """The headers that all responses of this second have in common."""
        common_of = publication, server_headers, int(now.timestamp())
        if common_of != self._common_of:
            self._common_of = common_of
            validity = self._freshness.headers(publication, now)
            self._common = lines([*server_headers, *completed(validity)])
        return self._common


def _is_simple(tag: bytes | None, kept: Answer, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the client has no copy of its own, or by its tag this one. Proxies that compress make
    the tag a weak one.
    """
    if tag is None:
        return b"if-modified-since" not in headers
    return tag.removeprefix(b"W/") == kept.tag


async def _nothing(*_: object) -> None:
    """What stands behind the proxies' headers here."""
