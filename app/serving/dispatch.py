"""The one path of a request: count, parse, look up, revalidate, compute, send.

`respond_at_once` takes the steps that need no waiting. The server's protocol calls it before it
creates a task, so that a cache hit costs no task. All other requests arrive at `__call__`, which
continues from there. FastAPI answers the paths that are not data endpoints.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from math import ceil

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.endpoints import Endpoints, ParsedRequest
from app.api.headers import (
    PREFLIGHT_HEADERS,
    WITHOUT_BODY,
    Headers,
    from_lines,
    lines,
    path_prefix,
    raw_headers,
)
from app.api.limit_rules import BADGES_PATH, in_words, is_limited
from app.api.payloads import RenderedBody
from app.api.problem_details import (
    error_response,
    not_found,
    problem,
    timeout_error,
    unexpected_error_response,
)
from app.api.statistics import Statistics, StatisticsReader
from app.domain.clock import Clock
from app.domain.downloads import Publication, ServedRanges, Window
from app.errors import RequestError, UnavailableError
from app.logs import request_id
from app.metrics import RATE_LIMITED
from app.serving.proxies import TrustedProxies
from app.serving.publication_watch import PublicationWatch
from app.serving.rate_limits import RateLimits
from app.serving.request import CANCELLED, NOT_LOOKED_UP, IncomingRequest
from app.serving.request_log import RequestLog
from app.serving.response import STATUS_LINES, Response, ResponseHeaders
from app.serving.response_cache import ResponseCache, StoredResponse, Tagger, encode, not_modified

log = logging.getLogger(__name__)

REQUEST = "pypi_stats.request"
"""Key of the `IncomingRequest` in the scope, if `respond_at_once` was called for the request."""

_METHODS = ("GET", "HEAD")
_PREFLIGHT = Response(204, lines(raw_headers(PREFLIGHT_HEADERS)))

_ANY_DAY = Window(date(2000, 1, 1), date(2000, 1, 1))
_ANY_RANGES = ServedRanges(_ANY_DAY, _ANY_DAY)
"""Ranges for validating requests while the process does not know what is published."""

WRONG_KEY = "This key is unknown. Send the key that the operator gave you, or none."

_Pending = tuple[str, bytes, str]
"""Version, target and encoding. Requests that agree on them share one computation."""


@dataclass(kw_only=True)
class Dispatcher:
    """Answers all HTTP requests. `Service` in `app/main.py` calls it."""

    app: ASGIApp
    """FastAPI, for all paths that are not data endpoints."""

    endpoints: Endpoints
    statistics: StatisticsReader
    cache: ResponseCache
    tagger: Tagger
    publication_watch: PublicationWatch
    rate_limits: RateLimits | None
    proxies: TrustedProxies
    log: RequestLog
    clock: Clock
    timeout_seconds: float

    def __post_init__(self) -> None:
        self._headers = ResponseHeaders(self.publication_watch, self.clock)
        self._pending: dict[_Pending, asyncio.Task[tuple[StoredResponse, Publication]]] = {}

    def incoming(
        self, method: str, target: bytes, headers: Headers, peer: str, root_path: str
    ) -> IncomingRequest:
        """Create a request from `peer`, which is the address of a client or a proxy, or empty."""
        request = IncomingRequest(method, target, headers, peer)
        request.prefix = root_path
        if self.proxies.is_trusted(peer):
            request.client = self.proxies.client(peer, request.headers.get(b"x-forwarded-for"))
            prefix = self.proxies.prefix(request.headers.get(b"x-forwarded-prefix"))
            request.prefix = request.prefix if prefix is None else prefix
        return request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: IncomingRequest | None = scope.get(REQUEST)
        if request is None:
            root_path, query = scope.get("root_path", ""), scope["query_string"]
            target = scope["raw_path"].removeprefix(root_path.encode())
            target = b"%b?%b" % (target, query) if query else target
            peer = scope["client"][0] if scope.get("client") else ""
            request = self.incoming(scope["method"], target, scope["headers"], peer, root_path)
        request_id.set(request.id)
        path_prefix.set(request.prefix)
        try:
            response = await self._respond(request)
            if response:
                await self._send(request, response, send)
            else:
                await self._delegate(request, scope, receive, send)
        except asyncio.CancelledError:
            # The server cancels requests when it has no more time to stop.
            if request.status:
                raise
            stopping = UnavailableError("The service is stopping.")
            await self._send(request, self._error(request, stopping), send)
        except Exception:
            if request.status:
                # The response has begun, so the server closes the connection.
                raise
            log.exception("a request failed unexpectedly")
            await self._send(request, Response.of(unexpected_error_response()), send)
        finally:
            # Without a status, the stopping server has cancelled the request.
            request.status = request.status or CANCELLED
            self.log.record(request)

    def respond_at_once(self, request: IncomingRequest) -> Response | None:
        """Return the response if it needs no waiting, else None."""
        if request.is_preflight:
            return _PREFLIGHT
        response = None
        if self.rate_limits and not request.is_counted and is_limited(request.path):
            client = self.rate_limits.client(request.client, request.headers)
            request.limited_client = client
            is_badge = request.path.startswith(BADGES_PATH)
            request.counters = client.badge_counters if is_badge else client.counters
            if (is_badge or request.is_conditional) and not client.has_wrong_key:
                response = self._look_up(request)
                # A 304 and a stored badge do not count.
                if response and (response.status == 304 or (is_badge and response.publication)):
                    return response
            if self.rate_limits.uses_shared_storage:
                return None
            request.limit_state = self.rate_limits.count_at_once(request.counters, request.cost)
            request.is_counted = True
        return self._refuse(request) or response or self._look_up(request)

    def render(
        self, request: IncomingRequest, response: Response, server_headers: Headers
    ) -> tuple[bytes, bytes]:
        """Return head and body of a response as bytes on the wire, and log the request."""
        body = b"" if request.method == "HEAD" else response.body
        request.status, request.size = response.status, len(body)
        headers = self._headers.of(request, response, server_headers)
        self.log.record(request)
        return b"%b%b\r\n" % (STATUS_LINES[response.status], headers), body

    async def _respond(self, request: IncomingRequest) -> Response | None:
        """Return the response of a data endpoint or an error, or None if FastAPI has to answer."""
        response = self.respond_at_once(request)
        if response is None and request.limited_client and not request.is_counted:
            assert self.rate_limits
            request.limit_state = await self.rate_limits.count(request.counters, request.cost)
            request.is_counted = True
            response = self._refuse(request) or self._look_up(request)
        if response or request.method not in _METHODS:
            return response
        if request.parsed:
            return await self._compute(request, self.publication_watch.publication)
        return None

    def _refuse(self, request: IncomingRequest) -> Response | None:
        """Return a 429 if the client has exceeded a limit, or a 401 if it has a wrong key."""
        state, client = request.limit_state, request.limited_client
        is_wrong = client is not None and client.has_wrong_key
        if not (is_wrong or (state and state.exceeded)):
            return None
        # The response may have been looked up already, but is not sent.
        request.cache = NOT_LOOKED_UP
        with _logged_as(request):
            if state and state.exceeded:
                RATE_LIMITED.inc()
                seconds = max(1, ceil(state.resets_in_seconds))
                detail = f"One client may make {in_words(state.limit)}: wait {seconds} s."
                return Response.of(problem(429, detail, headers={"Retry-After": str(seconds)}))
            return Response.of(problem(401, WRONG_KEY, headers={"WWW-Authenticate": "Bearer"}))

    def _look_up(self, request: IncomingRequest) -> Response | None:
        """Return a stored response, a 304, or the error of an invalid request."""
        publication = self.publication_watch.publication
        if request.method not in _METHODS:
            return None
        # A canonical target needs no parsing.
        stored = None
        if publication and not request.accepted_format:
            stored = self.cache.get(request.target, request.encoding)
        if stored is None:
            try:
                parsed = self._parse(request, publication.served if publication else _ANY_RANGES)
            except RequestError as error:
                return self._error(request, error)
            if parsed is None or publication is None:
                return None
            stored = self.cache.get(parsed.target, request.encoding)
            if stored is None:
                tags = self.tagger.tags(publication, parsed.target, request.encoding)
                tag = request.matching_tag(tags)
                if tag is None:
                    return None
                request.cache = "tag_match"
                return not_modified(tag, publication, has_formats=parsed.endpoint.has_formats)
        assert publication
        request.route = stored.route
        response = self._revalidate(request, stored, publication)
        request.cache = "tag_match" if response.status == 304 else "hit"
        return response

    def _parse(self, request: IncomingRequest, served: ServedRanges) -> ParsedRequest | None:
        """Parse a request of a data endpoint. Raises a `RequestError` if it is invalid."""
        found = self.endpoints.at(request.path)
        if found:
            request.route = found[0].path
            request.parsed = self.endpoints.parse(
                request.path, request.query, served, request.accepted_format
            )
        return request.parsed

    @staticmethod
    def _revalidate(
        request: IncomingRequest, stored: StoredResponse, publication: Publication
    ) -> Response:
        """Return the whole response, the requested part, or a 304 if the client has it already."""
        if request.is_conditional:
            tag = request.revalidated_tag(stored.tags, publication.published_at)
            if tag == stored.tags[0]:
                return stored.not_modified
            if tag:
                return not_modified(tag, publication, has_formats=stored.has_formats)
        part = None
        if b"range" in request.headers and request.method == "GET":
            with _logged_as(request):
                part = stored.part(request.headers[b"range"], request.headers.get(b"if-range"))
        return part or stored.whole

    async def _compute(self, request: IncomingRequest, expected: Publication | None) -> Response:
        """Compute a response. Equal requests share one computation, which no client can cancel."""
        request.cache = "miss"
        assert request.parsed
        version = expected.version if expected else ""
        key = version, request.parsed.target, request.encoding
        task = self._pending.get(key)
        if task is None:
            task = self._pending[key] = asyncio.create_task(self._read(request, expected))
            task.add_done_callback(partial(self._forget, key))
        deadline = asyncio.timeout(self.timeout_seconds)
        try:
            async with deadline:
                stored, publication = await asyncio.shield(task)
        except RequestError as error:
            return self._error(request, error)
        except TimeoutError:
            if not deadline.expired():
                raise
            return self._error(request, timeout_error(self.timeout_seconds))
        return self._revalidate(request, stored, publication)

    async def _read(
        self, request: IncomingRequest, expected: Publication | None
    ) -> tuple[StoredResponse, Publication]:
        """Call the endpoint's handler. Return the response and the publication that it saw."""

        async def compute(statistics: Statistics) -> tuple[ParsedRequest, RenderedBody]:
            # Another publication may have other ranges.
            parsed = self._parse(request, statistics.publication.served)
            assert parsed
            return parsed, await parsed.answer(statistics)

        (parsed, rendered), publication = await self.statistics.read(compute, expected)
        tags = self.tagger.tags(publication, parsed.target, request.encoding)
        stored = await encode(parsed, rendered, request.encoding, tags, publication)
        if rendered.is_cacheable:
            self.cache.put(publication, parsed, request.encoding, stored)
        return stored, publication

    def _forget(self, key: _Pending, task: asyncio.Task[object]) -> None:
        del self._pending[key]
        if not task.cancelled():
            # If all clients have disconnected, nothing else retrieves the exception, and asyncio
            # would log a traceback.
            task.exception()

    def close(self) -> None:
        """Cancel computations that no client waits for any more, and log the last requests."""
        for task in self._pending.values():
            task.cancel()
        self.log.flush()

    def _error(self, request: IncomingRequest, error: RequestError) -> Response:
        with _logged_as(request):
            return Response.of(error_response(error))

    async def _send(self, request: IncomingRequest, response: Response, send: Send) -> None:
        body = b"" if request.method == "HEAD" else response.body
        headers = from_lines(self._headers.of(request, response))
        request.status, request.size = response.status, len(body)
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _delegate(
        self, request: IncomingRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let FastAPI answer. A HEAD request gets the response to GET without its body."""
        # A request for the metrics has to see all requests before it.
        self.log.flush()
        # The server's own scope stays as it is: the server uses it after the response.
        scope = {**scope, "headers": request.negotiated_headers(scope["headers"])}
        is_head = request.method == "HEAD"
        if is_head:
            scope |= {"method": "GET", WITHOUT_BODY: True}

        async def send_complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                message["headers"] = self._headers.complete(request, message["headers"])
            elif is_head:
                message = {**message, "body": b""}
            else:
                request.size += len(message.get("body", b""))
            await send(message)

        # FastAPI's router would ignore a trailing newline.
        app = not_found() if request.path.endswith("\n") else self.app
        await app(scope, receive, send_complete)
        route = scope.get("route")
        request.route = route.path if route else request.route


@contextmanager
def _logged_as(request: IncomingRequest) -> Iterator[None]:
    """Use the request's id in log lines and error bodies, and its prefix in links."""
    tokens = request_id.set(request.id), path_prefix.set(request.prefix)
    try:
        yield
    finally:
        request_id.reset(tokens[0])
        path_prefix.reset(tokens[1])
