"""The server's HTTP protocol: uvicorn's, with bounds, and without tasks for simple responses.

uvicorn accepts a head of any size, waits for it forever, and queues any number of requests. This
protocol refuses a request that exceeds a bound, and handles one request of a connection at a time.
It also writes the responses that the dispatcher returns at once, because creating a task for a
cache hit takes twice as long as the rest.

`tests/serving/test_private_apis.py` lists the parts of uvicorn's private API that are used.
"""

import logging
from asyncio import TimerHandle, Transport
from functools import partial
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.serving.connection_timers import IdleTimer, ReaderTimer
from app.serving.connections import MAX_WAITING_BYTES, Connections
from app.serving.dispatch import REQUEST, Dispatcher
from app.serving.request import IncomingRequest
from app.serving.request_bounds import (
    Refusal,
    end_of_piece,
    find_long_body,
    find_long_head,
    find_refusal,
)

log = logging.getLogger(__name__)

ARRIVAL_TIMEOUT_SECONDS = 10.0
"""Maximum time from the first byte of a request to its last."""

LINGER_SECONDS = 2.0
"""How long a refused connection stays open so that the client can read the error."""


class _RefusedError(Exception):
    """Raised in a callback of the parser to stop it. `_refusal` contains the reason."""


class BoundedHTTPProtocol(HttpToolsProtocol):
    """A connection. While no response is due, a timer limits how long the connection stays open."""

    active_at = 0.0
    """Time of the loop at which the client last began a request or read something."""

    _request_timer: TimerHandle | None = None
    """Timer that runs until a request is complete."""

    _is_receiving = False
    """True if a request has begun and is not complete."""

    _is_due = False
    """True if a request is complete and its response is not."""

    _headers_count: int | None = None
    """Number of headers of the request whose body is being received. None before a body."""

    _received_bytes = 0
    """Number of bytes received of the current head after its first piece, or of the body."""

    _body_bytes = 0

    _waiting = b""
    """Data that is parsed after the current response."""

    _is_half_closed = False
    """True if the client has closed its side and sends no more data."""

    _refusal = Refusal(400, "This is not a valid HTTP request.")
    _is_refused = False
    """True if the rest of the connection is ignored."""

    def __init__(self, *arguments: Any, **named_arguments: Any) -> None:
        super().__init__(*arguments, **named_arguments)
        self._dispatcher: Dispatcher | None = getattr(self.app, "dispatcher", None)
        self._all_connections: Connections = self.app.connections
        self._unwritten: tuple[bytes, bytes] | None = None
        """Head and body of a response that needed no task."""

    @property
    def is_idle(self) -> bool:
        """True if no response is due, and the client has read all of them."""
        return not (self._is_due or self.transport.get_write_buffer_size())

    @property
    def host(self) -> str:
        """Address of the client, or empty."""
        return self.client[0] if self.client else ""

    # uvicorn declares the transport's type like this as well.
    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client:
            # On a dual-stack socket an IPv4 address is mapped to an IPv6 address.
            self.client = self.client[0].removeprefix("::ffff:"), self.client[1]
        self.active_at = self.loop.time()
        self._idle_timer = IdleTimer(self.loop, self._seconds_left, self._close)
        abort = partial(self._all_connections.abort, self, "stalled")
        self._reader_timer = ReaderTimer(self.loop, transport, abort)
        self._all_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_request_timer()
        self._reader_timer.stop()
        self._idle_timer.stop()
        self._take_waiting()
        self._all_connections.remove(self)
        super().resume_writing()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's own type
        """Return True, so that the connection stays open, if the client waits for responses."""
        self._is_half_closed = True
        return self._is_due or bool(self._waiting)

    def data_received(self, data: bytes) -> None:
        if not self._is_refused:
            self._parse(self._take_waiting() + data if self._waiting else data)

    def _parse(self, data: bytes) -> None:
        """Parse requests until a response is due. The rest of the data waits for it."""
        start = 0
        while start < len(data) and not self.transport.is_closing():
            if self._is_due or self.flow.write_paused:
                self._wait_for_response(data[start:])
                return
            piece = data[start : end_of_piece(data, start, self._body_bytes_left())]
            start += len(piece)
            self._received_bytes += len(piece)
            try:
                self.parser.feed_data(piece)
            except HttpParserUpgrade as upgrade:
                # The service speaks no other protocol, so the next request follows.
                start -= len(piece) - upgrade.args[0]
            except HttpParserError:
                self._refuse(self._refusal)
                return
            if self._is_receiving:
                if self._headers_count is None:
                    refusal = find_long_head(self.url, self.headers, self._received_bytes)
                else:
                    trailers = len(self.headers) - self._headers_count
                    del self.headers[self._headers_count :]
                    refusal = find_long_body(self._received_bytes, trailers)
                if refusal:
                    self._refuse(refusal)
                    return
        if self._is_receiving and self._request_timer is None:
            self._request_timer = self.loop.call_later(
                ARRIVAL_TIMEOUT_SECONDS, self._request_timed_out
            )

    def _body_bytes_left(self) -> int | None:
        """Return the length of the rest of a body, or None for a head and an unknown length."""
        if self._headers_count is None:
            return None
        length = dict(self.headers).get(b"content-length")
        return int(length) - self._body_bytes if length else None

    def _wait_for_response(self, data: bytes) -> None:
        self._waiting = data
        self._all_connections.waiting_bytes += len(data)
        self.flow.pause_reading()
        if self._all_connections.waiting_bytes > MAX_WAITING_BYTES:
            self._refuse(Refusal(503, "Too many pipelined requests are waiting."))

    def _take_waiting(self) -> bytes:
        data, self._waiting = self._waiting, b""
        self._all_connections.waiting_bytes -= len(data)
        return data

    def _continue_soon(self) -> None:
        """Queue the parsing of data that has waited for a response."""
        if self._waiting or self._is_half_closed:
            self._all_connections.call_in_turn(self._continue)

    def _continue(self) -> None:
        if self._has_ended() or self._is_due or self.flow.write_paused:
            return
        if self._waiting:
            self._parse(self._take_waiting())
        if not self._waiting and not self._has_ended():
            self.flow.resume_reading()
            if self._is_half_closed and not self._is_due:
                self._close()

    def on_message_begin(self) -> None:
        # Blank lines between requests do not count as activity, so set the time here.
        self.active_at = self.loop.time()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._is_receiving = True
        self._received_bytes = 0

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        refusal = find_refusal(self.url, self.headers, self._received_bytes, version)
        self._received_bytes = self._body_bytes = 0
        self._headers_count = len(self.headers)
        if refusal:
            self._refusal = refusal
            raise _RefusedError
        if self.expect_100_continue and version == "1.1" and not self._is_due:
            self.expect_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Count the bytes of the body, which is ignored."""
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._is_due:
            raise _RefusedError
        self._is_receiving = False
        self._stop_request_timer()
        # Remove the trailers of a chunked body: they do not count as headers.
        del self.headers[self._headers_count :]
        self._headers_count = None
        request = self._respond_at_once()
        if self._unwritten:
            self._is_due = True
            # Clients that receive responses together also send their next requests together, which
            # takes fewer system calls. So write after the loop has read from all connections.
            self.loop.call_soon(self._complete_answer)
            return
        # uvicorn's own methods create the scope and the task.
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers += headers
        if request:
            cast("Scope", self.scope)[REQUEST] = request
        super().on_headers_complete()
        super().on_message_complete()
        self._is_due = True

    def _respond_at_once(self) -> IncomingRequest | None:
        """Set `_unwritten` if the response needs no task. Return the request if it was created.

        A response needs a task if it has to be computed, or if it closes the connection.
        """
        parser, dispatcher = self.parser, self._dispatcher
        if (
            dispatcher is None
            or not self.url.startswith(b"/")
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
        ):
            return None
        request = None
        try:
            request = dispatcher.incoming(
                parser.get_method().decode(),
                self.url.partition(b"#")[0],
                self.headers,
                self.host,
                self.root_path,
            )
            response = dispatcher.respond_at_once(request)
            if response:
                server_headers = self.server_state.default_headers
                self._unwritten = dispatcher.render(request, response, server_headers)
        except Exception:
            # If the exception got through, the parser would report an invalid request.
            log.exception("a request could not be answered at once")
        return request

    def _complete_answer(self) -> None:
        self._write_answer()
        self.on_response_complete()

    def _write_answer(self) -> None:
        if self._unwritten and not self.transport.is_closing():
            # Joining head and body would copy the body.
            self.transport.writelines(self._unwritten)
        self._unwritten = None

    def on_response_complete(self) -> None:
        """Continue with the next request. uvicorn's own method starts a timer for each response."""
        self.server_state.total_requests += 1
        self._is_due = False
        self.active_at = self.loop.time()
        if self.transport.is_closing():
            self._reader_timer.start_if_closing()
        elif self._is_refused:
            self._answer_refusal()
        else:
            self._continue_soon()

    def shutdown(self) -> None:
        self._write_answer()
        super().shutdown()
        self._reader_timer.start_if_closing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader_timer.start()
        self._all_connections.add_unread(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.active_at = self.loop.time()
        self._all_connections.remove_unread(self)
        if not self.transport.is_closing():
            self._reader_timer.stop()
            self._continue_soon()

    def _has_ended(self) -> bool:
        return self._is_refused or self.transport.is_closing()

    def _seconds_left(self) -> float:
        """Return how long the client may still take to send its next request."""
        is_busy = self._is_due or self._is_receiving or self._waiting
        active_at = self.loop.time() if is_busy else self.active_at
        return active_at + self.timeout_keep_alive - self.loop.time()

    def _stop_request_timer(self) -> None:
        if self._request_timer:
            self._request_timer.cancel()
            self._request_timer = None

    def _request_timed_out(self) -> None:
        self._refuse(
            Refusal(408, f"The request did not arrive within {ARRIVAL_TIMEOUT_SECONDS:g} s.")
        )

    def _close(self) -> None:
        self.transport.close()
        self._reader_timer.start_if_closing()

    def _refuse(self, refusal: Refusal) -> None:
        """Read no more requests, and send an error after the responses that are due."""
        self._is_refused = True
        self._refusal = refusal
        # Release their memory, because the connection stays open for a while. A request before this
        # one has its own scope.
        self.headers, self.url, self.scope = [], b"", {}  # type: ignore[typeddict-item]
        self._stop_request_timer()
        self._take_waiting()
        # Closing with unread data would reset the connection before the client reads the error.
        self.flow.resume_reading()
        if not self._is_due:
            self._answer_refusal()

    def _answer_refusal(self) -> None:
        if self.transport.is_closing():
            return
        self._all_connections.record_refusal(self, self._refusal)
        headers = self._dispatcher.publication_watch.as_of() if self._dispatcher else []
        self.transport.write(self._refusal.render(headers))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self._close)
