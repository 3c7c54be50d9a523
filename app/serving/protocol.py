"""The server's protocol: uvicorn's, with limits, and without tasks for simple responses.

uvicorn's takes a head of any size and waits for it without end. Here, what goes beyond a bound is
answered before there is a request, and the connection is closed. What the app has an answer to at
hand is answered before there is a task.
"""

import logging
from asyncio import CancelledError, TimerHandle, Transport
from itertools import chain
from secrets import token_hex
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.api.headers import DEFAULT_HEADERS, FIXED_HEADERS, lines
from app.api.problem_details import problem
from app.logs import request_id
from app.metrics import REQUESTS
from app.serving.dispatch import REQUEST, Dispatcher
from app.serving.request import NO_ROUTE

log = logging.getLogger(__name__)

MAX_TARGET_BYTES = 24 * 1024
"""Maximum length of a path with its query."""

MAX_HEADERS_BYTES = 16 * 1024
"""Maximum length of all headers of a request together."""

LONG_TARGET = 414, f"A path with its query may have {MAX_TARGET_BYTES} bytes."
LONG_HEADERS = 431, f"Headers may have {MAX_HEADERS_BYTES} bytes together."

MAX_BODY_BYTES = 16 * 1024
"""No request needs a body, though some clients send a small one."""

HEAD_TIMEOUT_SECONDS = 10.0
"""How long a request's head may take: from the connection on, or from the first byte of a later
request on it.
"""

MAX_PIPELINED = 1000
"""Requests of a connection that wait for those before them. Each takes 2 KB, and is sent in 18."""

WRITE_TIMEOUT_SECONDS = 20.0
"""How long a client may read nothing of a response that waits for it."""

LINGER_SECONDS = 2.0
"""How long a refused connection stays open so that the client can read the error."""


class _RefusedError(Exception):
    """Stops the parser."""


# What it says of a request that is none is said by us, with the answer.
logging.getLogger("uvicorn.error").addFilter(
    lambda record: record.msg != "Invalid HTTP request received."
)


def _is_of_cancelled_request(record: logging.LogRecord) -> bool:
    return record.exc_info is not None and isinstance(record.exc_info[1], CancelledError)


# uvicorn logs one line when a stop cancels requests, and then a traceback for each of them.
logging.getLogger("uvicorn.error").addFilter(lambda record: not _is_of_cancelled_request(record))


class BoundedHTTPProtocol(HttpToolsProtocol):
    """A connection waits for an answer, or one of the timers runs: none is held for nothing."""

    _head_timer: TimerHandle | None = None
    """Runs until a head is complete."""

    _head_bytes = 0
    """Received since then."""

    _has_head_begun = False

    _write_timer: TimerHandle | None = None
    _refusal: tuple[int, str] = 400, "This is no valid HTTP request."
    _is_refused = False
    """Nothing more is read."""

    def __init__(self, *arguments: Any, **named_arguments: Any) -> None:
        super().__init__(*arguments, **named_arguments)
        self._dispatcher: Dispatcher | None = getattr(self.app, "dispatcher", None)
        self._unwritten: tuple[bytes, bytes] | None = None
        """Head and body of a response that needed no task."""

    # The type that every server hands over, as uvicorn has it.
    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client:
            # On a socket for both, an IPv4 address looks like one of IPv6.
            self.client = self.client[0].removeprefix("::ffff:"), self.client[1]
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_waiting_for_reader()
        super().resume_writing()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # as asyncio has it
        """A client that has asked and will say no more still gets its answer."""
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
            # Most heads come in one piece and need no timer. After blank lines, and what is left of
            # a body, uvicorn has stopped its own.
            self._wait_for_head()
            if self._has_head_begun:
                # Requests before it may have come in the same piece.
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
        if len(self.url) > MAX_TARGET_BYTES:
            self._refusal = LONG_TARGET
            raise _RefusedError
        given = dict(self.headers)
        if b"transfer-encoding" in given:
            self._refusal = 411, "A body, which none needs, has to come with its length."
            raise _RefusedError
        # The parser takes none that is there twice.
        length = given.get(b"content-length")
        if length is not None and int(length) > MAX_BODY_BYTES:
            self._refusal = 413, f"A body may have {MAX_BODY_BYTES} bytes; none is needed."
            raise _RefusedError
        if self._headers_bytes() > MAX_HEADERS_BYTES:
            self._refusal = LONG_HEADERS
            raise _RefusedError
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refusal = 400, f"{MAX_PIPELINED} requests may wait for those before them."
            raise _RefusedError
        if length is not None or not self._is_answered_at_once():
            super().on_headers_complete()

    def _is_answered_at_once(self) -> bool:
        """By the app's fast path, in place of uvicorn's cycle of request and response.

        Nothing has to be waited for: there is room for the answer, and none comes before it.
        """
        parser = self.parser
        # Of the request before this one, in the same piece.
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
            # The parser would take it for an invalid request.
            log.exception("a request could not be answered at once")
            return False
        # Not yet: a client that is written to wakes up and asks again. When all that have asked are
        # answered first, they are found together, with fewer calls of the system.
        self.loop.call_soon(self._complete_answer)
        return True

    def _complete_answer(self) -> None:
        self._write_answer()
        if not self._is_answering():
            self.on_response_complete()

    def _write_answer(self) -> None:
        if self._unwritten and not self.transport.is_closing():
            # They are not joined: a body may be long.
            self.transport.writelines(self._unwritten)
        self._unwritten = None

    def on_message_complete(self) -> None:
        # uvicorn tells it to the cycle, and what is answered at once has none.
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
        """Clients that offer another protocol are common, and answered in this one."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Called for whatever stopped the parser; we know more of it than `msg` says."""
        self._refuse(*self._refusal)

    def _has_ended(self) -> bool:
        return self._is_refused or self.transport.is_closing()

    def _is_answering(self) -> bool:
        # Before the first request that needs one there is no cycle, whatever its type says.
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
        """A connection that is closed stays until its client has read all."""
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
        """After the answers to what came before on the same connection."""
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
        self.transport.write(b"".join((STATUS_LINE[status], head, b"\r\n", answer.body)))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self._close)
