"""Timeouts for clients that send no request, or do not read their response."""

from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Callable

CLIENT_READ_TIMEOUT_SECONDS = 20.0
"""Maximum time in which a client reads nothing of a response that was sent to it."""


class ReaderTimer:
    """A timeout that runs while a client has data to read, and restarts when it reads some."""

    def __init__(
        self, loop: AbstractEventLoop, transport: Transport, timed_out: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._timed_out = timed_out
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        self.stop()
        unread = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(CLIENT_READ_TIMEOUT_SECONDS, self._check, unread)

    def start_if_closing(self) -> None:
        """Start if the connection closes as soon as the client has read the rest."""
        if self._transport.is_closing() and self._transport.get_write_buffer_size():
            self.start()

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _check(self, unread: int) -> None:
        if self._transport.get_write_buffer_size() < unread:
            self.start()
        else:
            self._timed_out()


class IdleTimer:
    """Closes a connection when no time is left for the next request.

    The timer is not restarted for each request, which would take longer than finding a cached
    response. When it expires, it checks how much time is left, and runs again for that time.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        seconds_left: Callable[[], float],
        close: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._seconds_left = seconds_left
        self._close = close
        self.check()

    def check(self) -> None:
        left = self._seconds_left()
        if left > 0:
            self._timer = self._loop.call_later(left, self.check)
        else:
            self._close()

    def stop(self) -> None:
        self._timer.cancel()
