"""Gives each request an id, writes a line about it and counts it: around everything else."""

import logging
import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from itertools import count
from secrets import token_hex
from time import perf_counter

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.fixed_headers import ADDED_HEADERS, FixedHeadersMiddleware
from app.api.problem_details import unexpected_answer
from app.logs import RequestLine, request_id
from app.metrics import REQUEST_SECONDS, REQUESTS

log = logging.getLogger(__name__)

NO_ROUTE = "none"
"""In the place of a route's template: of what leads nowhere, or was refused before its route was
looked for.
"""

CANCELLED = 499
"""In the place of a status, as other servers have it."""

LOGGED_CHARACTERS = 300
"""Of a path, and of a query."""

_GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

_ids = count()
_ID_PREFIX = token_hex(4)
"""Of this process: what follows counts its requests."""


class RequestLog:
    """`write_line` writes about a request; None writes nothing. Of queries it is told the
    `known_arguments`: what else is in one may be a secret that got there by mistake.
    """

    def __init__(
        self, write_line: Callable[[RequestLine], None] | None, known_arguments: Collection[str]
    ) -> None:
        self._write_line = write_line
        self._known_arguments = frozenset(name.encode() for name in known_arguments)

    def note(
        self,
        route: str,
        status: int,
        seconds: float,
        *,
        method: str,
        path: bytes,
        query: bytes,
        size: int,
        client: tuple[str, int] | None,
        request_id: str,
    ) -> None:
        """Count a request by its route's template, and write about it."""
        requests, durations = _metrics(route, status)
        requests.inc()
        durations.observe(seconds)
        if self._write_line:
            # By position, which is twice as fast.
            line = RequestLine(
                method,
                _cut(path),
                self._known_query(query) if query else "",
                status,
                size,
                round(seconds * 1000, 2),
                client[0] if client else "",
                request_id,
            )
            self._write_line(line)

    def _known_query(self, query: bytes) -> str:
        given = query.split(b"&")
        known = [one for one in given if one.partition(b"=")[0] in self._known_arguments]
        return _cut(b"&".join(known))


class RequestLogMiddleware:
    def __init__(self, app: ASGIApp, log: RequestLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own_id = id_of(dict(scope["headers"]))
        request_id.set(own_id)
        scope[ADDED_HEADERS] = [(b"x-request-id", own_id.encode())]
        status = 0
        size = 0
        began = perf_counter()

        async def note_and_send(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, note_and_send)
        except Exception:
            # Of what stands around the guard.
            if status:
                raise
            log.exception("a request failed unexpectedly")
            answer = FixedHeadersMiddleware(unexpected_answer(), list)
            await answer(scope, receive, note_and_send)
        finally:
            route = scope.get("route")
            self._log.note(
                route.path if route else NO_ROUTE,
                # Nothing was sent: the server stops, and cancels what runs.
                status or CANCELLED,
                perf_counter() - began,
                method=scope["method"],
                path=scope["raw_path"],
                query=scope["query_string"],
                size=size,
                client=scope["client"],
                request_id=own_id,
            )


def id_of(headers: Mapping[bytes, bytes]) -> str:
    """Of a request: what a proxy, or the client, has given to it, or a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and _GIVEN_ID.fullmatch(given):
        return given.decode()
    return f"{_ID_PREFIX}{next(_ids) & 0xFFFFFFFF:08x}"


@lru_cache(maxsize=1024)
def _metrics(template: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(template, status), REQUEST_SECONDS.labels(template)


def _cut(text: bytes) -> str:
    """As it came over the wire, where nothing in it can end a line."""
    return text[:LOGGED_CHARACTERS].decode("ascii", "backslashreplace")
