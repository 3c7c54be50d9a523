"""The server's HTTP protocol: uvicorn's, with bounds, and without tasks for simple responses.

uvicorn accepts a head of any size and waits for it forever. This protocol refuses a request that
exceeds a bound, and closes the connection. It also writes the responses that the dispatcher has at
once, because creating a task for a cache hit takes twice as long as the rest.

`tests/serving/test_private_apis.py` lists the parts of uvicorn's private API that are used.
"""

import logging
from asyncio import CancelledError, TimerHandle, Transport
from itertools import chain
from secrets import token_hex
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.headers import DEFAULT_HEADERS, FIXED_HEADERS, lines
from app.api.problem_details import problem
from app.logs import request_id
from app.metrics import REQUESTS
from app.serving.dispatch import REQUEST, Dispatcher
from app.serving.request import NO_ROUTE
from app.serving.response import STATUS_LINES

log = logging.getLogger(__name__)

MAX_TARGET_BYTES = 24 * 1024
"""Maximum length of a path with its query."""

MAX_HEADERS_BYTES = 16 * 1024
"""Maximum length of all headers of a request together."""

LONG_TARGET = 414, f"A path with its query may have {MAX_TARGET_BYTES} bytes."
LONG_HEADERS = 431, f"Headers may have {MAX_HEADERS_BYTES} bytes together."

MAX_BODY_BYTES = 16 * 1024
"""Maximum length of a body. No request needs one, but some clients send a small one."""

HEAD_TIMEOUT_SECONDS = 10.0
"""Timeout for receiving a request's head. It begins with the connection, and for later requests
with their first byte.
"""

MAX_PIPELINED = 1000
"""Maximum number of pipelined requests queued per connection. Each takes 2 KB."""

WRITE_TIMEOUT_SECONDS = 20.0
"""Timeout for a client that reads nothing of its response."""

LINGER_SECONDS = 2.0
"""How long a refused connection stays open so that the client can read the error."""


class _RefusedError(Exception):
    """Stops the parser."""


def _is_useful(record: logging.LogRecord) -> bool:
    """Return False for what the service logs itself, and for the tracebacks of cancelled requests.

    uvicorn logs one line when a stop cancels requests, and then a traceback for each of them.
    """
    is_cancelled = record.exc_info and isinstance(record.exc_info[1], CancelledError)
    return record.msg != "Invalid HTTP request received." and not is_cancelled


logging.getLogger("uvicorn.error").addFilter(_is_useful)


class BoundedHTTPProtocol(HttpToolsProtocol):
    """A connection. Either a response is being computed, or a timer closes the connection."""

    _head_timer: TimerHandle | None = None
    """Runs until a head is complete."""

    _head_bytes = 0
    """Bytes received since the head timer was started."""

    _has_head_begun = False

    _write_timer: TimerHandle | None = None
    """Runs while the client has to read."""

    _refusal: tuple[int, str] = 400, "This is not a valid HTTP request."
    _is_refused = False
    """True if the rest of the connection is ignored."""

    def __init__(self, *arguments: Any, **named_arguments: Any) -> None:
        super().__init__(*arguments, **named_arguments)
        self._dispatcher: Dispatcher | None = getattr(self.app, "dispatcher", None)
        self._unwritten: tuple[bytes, bytes] | None = None
        """Head and body of a response that needed no task."""

    # uvicorn declares the transport's type like this as well.
    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client:
            # On a dual-stack socket an IPv4 address is mapped to an IPv6 address.
            self.client = self.client[0].removeprefix("::ffff:"), self.client[1]
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_waiting_for_reader()
        super().resume_writing()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's own type
        """Keep the connection open for the response if the client has closed its side."""
        return self._is_answering()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        if self._has_ended():
            return
        if self._head_timer:
            self._head_bytes += len(data)
        elif self._has_head_begun or not self._is_answering():
            # Most heads come in one piece and need no timer. uvicorn has stopped its keep-alive
            # timer, also for blank lines and the rest of a body.
            self._wait_for_head()
            if self._has_head_begun:
                # The data may contain earlier requests as well.
                self._head_bytes = len(self.url) + self._headers_bytes()
        else:
            return
        if self._head_bytes > MAX_TARGET_BYTES + MAX_HEADERS_BYTES:
            is_target = self._has_head_begun and len(self.url) > MAX_TARGET_BYTES
            self._refuse(*(LONG_TARGET if is_target else LONG_HEADERS))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_head_begun = True

    def on_headers_complete(self) -> None:
        self._has_head_begun = False
        self._stop_waiting()
        given = dict(self.headers)
        # The parser rejects a repeated Content-Length.
        length = given.get(b"content-length")
        refusal = self._find_refusal(length, has_encoding=b"transfer-encoding" in given)
        if refusal:
            self._refusal = refusal
            raise _RefusedError
        if length is not None or not self._is_answered_at_once():
            super().on_headers_complete()

    def _find_refusal(self, length: bytes | None, *, has_encoding: bool) -> tuple[int, str] | None:
        """Return status and detail of the error if the request exceeds a bound."""
        if len(self.url) > MAX_TARGET_BYTES:
            return LONG_TARGET
        if has_encoding:
            return 411, "A body needs a Content-Length header. No request here needs a body."
        if length is not None and int(length) > MAX_BODY_BYTES:
            return 413, f"A body may have {MAX_BODY_BYTES} bytes. No request here needs a body."
        if self._headers_bytes() > MAX_HEADERS_BYTES:
            return LONG_HEADERS
        if len(self.pipeline) >= MAX_PIPELINED:
            return 400, f"{MAX_PIPELINED} requests may wait for those before them."
        return None

    def _is_answered_at_once(self) -> bool:
        """Answer without uvicorn's request cycle. Return False if the request needs a task.

        That is the case if the response has to wait: for its computation, for responses before it,
        or for the client to read.
        """
        parser = self.parser
        # The response to the request before this one in the same data.
        self._write_answer()
        if (
            self._dispatcher is None
            or not self.url.startswith(b"/")
            or self._is_answering()
            or self.flow.write_paused
            or self.transport.is_closing()
            or self.expect_100_continue
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or parser.should_upgrade()
        ):
            return False
        scope = cast("Scope", self.scope)
        method = parser.get_method().decode()
        dispatcher = self._dispatcher
        try:
            request = dispatcher.incoming(scope, method, self.url.partition(b"#")[0])
            # The task continues with this request, if one is needed.
            scope[REQUEST] = request
            response = dispatcher.respond_at_once(request)
            if response is None:
                return False
            self._unwritten = dispatcher.render(
                request, response, self.server_state.default_headers
            )
        except Exception:
            # The parser would report an invalid request.
            log.exception("a request could not be answered at once")
            return False
        # Write after the loop has read from all ready connections. Clients that receive responses
        # together also send their next requests together, which takes fewer system calls.
        self.loop.call_soon(self._complete_answer)
        return True

    def _complete_answer(self) -> None:
        self._write_answer()
        if not self._is_answering():
            self.on_response_complete()

    def _write_answer(self) -> None:
        if self._unwritten and not self.transport.is_closing():
            # Joining them would copy the body.
            self.transport.writelines(self._unwritten)
        self._unwritten = None

    def on_message_complete(self) -> None:
        # uvicorn passes this on to the request cycle, which a response at once does not have.
        if not self._unwritten:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_refused and not self._is_answering():
            self._answer_refusal()
        self._wait_until_closed()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._wait_until_closed()

    def shutdown(self) -> None:
        self._write_answer()
        super().shutdown()
        self._wait_until_closed()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_waiting_for_reader()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: clients that offer another protocol are common."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn passes it
        """Called if the parser has stopped. `_refusal` says why."""
        self._refuse(*self._refusal)

    def _has_ended(self) -> bool:
        return self._is_refused or self.transport.is_closing()

    def _is_answering(self) -> bool:
        # uvicorn's type excludes None, the value before the first request.
        cycle: RequestResponseCycle | None = self.cycle
        is_complete = cycle is None or cycle.response_complete
        return bool(self._unwritten or self.pipeline) or not is_complete

    def _wait_for_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self._head_timed_out)

    def _headers_bytes(self) -> int:
        return sum(map(len, chain.from_iterable(self.headers)))

    def _close(self) -> None:
        self.transport.close()
        self._wait_until_closed()

    def _wait_until_closed(self) -> None:
        """Limit the time for which a closed connection waits for its client to read the rest."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._wait_for_reader()

    def _stop_waiting_for_reader(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None

    def _wait_for_reader(self) -> None:
        self._stop_waiting_for_reader()
        unread = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(
            WRITE_TIMEOUT_SECONDS, self._write_timed_out, unread
        )

    def _write_timed_out(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._wait_for_reader()
        else:
            self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        if self._has_head_begun:
            self._refuse(408, f"A request's head may take {HEAD_TIMEOUT_SECONDS:g} s.")
        else:
            self._close()

    def _refuse(self, status: int, detail: str) -> None:
        """Read no more requests, and send an error after the responses that are due."""
        self._is_refused = True
        self._refusal = status, detail
        self._stop_waiting()
        if not self._is_answering():
            self._answer_refusal()

    def _answer_refusal(self) -> None:
        if self.transport.is_closing():
            return
        status, detail = self._refusal
        token = request_id.set(token_hex(8))
        answer = problem(status, detail, headers=FIXED_HEADERS | DEFAULT_HEADERS)
        answer.headers.update({"X-Request-ID": request_id.get(), "Connection": "close"})
        log.info("refused %s with %d: %s", self.client and self.client[0], status, detail)
        request_id.reset(token)
        REQUESTS.labels(NO_ROUTE, status).inc()
        head = lines(answer.raw_headers)
        self.transport.write(b"".join((STATUS_LINES[status], head, b"\r\n", answer.body)))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self._close)
