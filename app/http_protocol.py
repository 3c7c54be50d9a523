"""How the server reads requests: uvicorn's protocol, with bounds.

uvicorn's takes a head of any size and waits for it without end. Here, what goes beyond a bound is
answered before there is a request, and the connection is closed.
"""

import logging
from asyncio import TimerHandle, Transport
from secrets import token_hex

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.fixed_headers import DEFAULT_HEADERS, FIXED_HEADERS
from app.api.problem_details import problem
from app.api.request_log import NO_ROUTE
from app.logs import request_id
from app.metrics import REQUESTS

log = logging.getLogger(__name__)

MAX_TARGET_BYTES = 8 * 1024
"""Of a path with its query."""

MAX_HEADERS_BYTES = 16 * 1024
"""Of all the headers of a request together."""

MAX_BODY_BYTES = 16 * 1024
"""No request needs a body, though some clients send a small one."""

HEAD_TIMEOUT_SECONDS = 10.0
"""For a head, from the connection on, or from the first byte where a connection is kept open."""

LINGER_SECONDS = 2.0
"""That a refused client has for reading why. What it sends meanwhile is thrown away."""


class _RefusedError(Exception):
    """Stops the parser."""


class BoundedHTTPProtocol(HttpToolsProtocol):
    _head_timer: TimerHandle | None = None
    _head_bytes = 0
    """Of a head that is not complete, by what was received."""

    _refusal: tuple[int, str] = 400, "This is no valid HTTP request."
    _is_refused = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        if self._head_timer:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_TARGET_BYTES + MAX_HEADERS_BYTES and not self._is_refused:
                self._refuse(431, f"Headers may have {MAX_HEADERS_BYTES} bytes together.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._head_timer:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        if len(self.url) > MAX_TARGET_BYTES:
            self._refusal = 414, f"A path with its query may have {MAX_TARGET_BYTES} bytes."
            raise _RefusedError
        size = 0
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"transfer-encoding":
                self._refusal = 411, "A body, which none needs, has to come with its length."
                raise _RefusedError
            if name == b"content-length" and int(value) > MAX_BODY_BYTES:
                self._refusal = 413, f"A body may have {MAX_BODY_BYTES} bytes; none is needed."
                raise _RefusedError
        if size > MAX_HEADERS_BYTES:
            self._refusal = 431, f"Headers may have {MAX_HEADERS_BYTES} bytes together."
            raise _RefusedError
        super().on_headers_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Clients that offer another protocol are common, and answered in this one."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Called for whatever stopped the parser."""
        self._refuse(*self._refusal)

    def _wait_for_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self._head_timed_out)

    def _stop_waiting(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        if self._head_bytes:
            self._refuse(408, f"A request's head may take {HEAD_TIMEOUT_SECONDS:g} s.")
        else:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        self._is_refused = True
        self._stop_waiting()
        if self.transport.is_closing():
            return
        token = request_id.set(token_hex(8))
        answer = problem(status, detail, headers=FIXED_HEADERS | DEFAULT_HEADERS)
        answer.headers.update({"X-Request-ID": request_id.get(), "Connection": "close"})
        log.info("refused a request of %s: %s", self.client and self.client[0], detail)
        request_id.reset(token)
        REQUESTS.labels(NO_ROUTE, status).inc()
        head = [b"%s: %s\r\n" % header for header in answer.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[status], *head, b"\r\n", answer.body]))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
