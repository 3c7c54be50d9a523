"""The open connections of a process, and the bounds on their number and their memory."""

import asyncio
import logging
import resource
from asyncio import Transport
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Protocol

from app.metrics import CONNECTIONS, CONNECTIONS_CLOSED, REQUESTS
from app.serving.log_line_limit import LogLineLimit
from app.serving.proxies import TrustedProxies, client_key
from app.serving.request import NO_ROUTE
from app.serving.request_bounds import Refusal

MAX_WAITING_BYTES = 16 * 2**20
"""Maximum length of all pipelined requests that wait for the responses before them."""

MAX_UNREAD_BYTES = 32 * 2**20
"""Maximum length of all responses that clients have not read. The system's buffers come on top."""

FILES_PER_CONNECTION = 2
"""Number of file descriptors that a connection may need: its socket and a dump's file."""

OTHER_FILES = 64
"""Number of file descriptors that a process needs besides those of connections."""

log = logging.getLogger(__name__)

_MEANINGS = {
    "client": "MAX_CONNECTIONS_PER_CLIENT is reached",
    "total": "MAX_CONNECTIONS is reached",
    "stalled": "the client does not read",
    "unread": "too many responses are unread",
}
"""Explanations of the reasons for closing a connection."""


class Connection(Protocol):
    """The attributes of a `BoundedHTTPProtocol` that decide which connection is closed."""

    transport: Transport
    active_at: float

    @property
    def host(self) -> str: ...

    @property
    def is_idle(self) -> bool: ...


def allowed_connections(wanted: int) -> int:
    """Raise the limit of open files as far as `wanted` connections need it.

    Return the number of connections that the limit allows, and at most `wanted`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OTHER_FILES + FILES_PER_CONNECTION * wanted
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = max((soft - OTHER_FILES) // FILES_PER_CONNECTION, 1)
    if allowed < wanted:
        log.warning(
            "the limit of %d open files (ulimit -n) allows %d connections instead of "
            "MAX_CONNECTIONS=%d",
            soft,
            allowed,
            wanted,
        )
    return min(allowed, wanted)


class Connections:
    """Counts the open connections, and aborts one when a new one exceeds a bound.

    The connections of trusted proxies count only in total, because they have many clients.
    """

    def __init__(
        self,
        max_total: int,
        max_per_client: int,
        proxies: TrustedProxies,
        rejections: LogLineLimit,
    ) -> None:
        self.max_total = max_total
        self.rejections = rejections
        self.max_per_client = max_per_client
        self._proxies = proxies
        self._clients: dict[Connection, str] = {}
        """The client of each connection, the oldest connection first."""

        self._counts: Counter[str] = Counter()
        self._unread: dict[Connection, None] = {}
        """Connections whose client has to read, the longest waiting first."""

        self._callbacks: deque[Callable[[], None]] = deque()
        self.waiting_bytes = 0
        """Length of all pipelined requests that wait."""

    def add(self, connection: Connection) -> None:
        client = client_key(connection.host)
        is_full = self._counts[client] >= self.max_per_client
        if is_full and not self._proxies.is_trusted(connection.host):
            own = (one for one, owner in self._clients.items() if owner == client)
            self._abort_one(own, "client")
        elif len(self._clients) >= self.max_total:
            self._abort_one(self._clients, "total")
        self._clients[connection] = client
        self._counts[client] += 1
        CONNECTIONS.inc()

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection. Calling this again for the same connection is harmless."""
        self._unread.pop(connection, None)
        client = self._clients.pop(connection, None)
        if client is not None:
            CONNECTIONS.dec()
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]

    def call_in_turn(self, callback: Callable[[], None]) -> None:
        """Queue a callback. Each iteration of the event loop calls one.

        uvloop accepts one connection per iteration. With 16 calls in each, a new client waited for
        2,500 pipelined requests of 200 other connections.
        """
        self._callbacks.append(callback)
        if len(self._callbacks) == 1:
            self._schedule_next()

    def _schedule_next(self) -> None:
        # The current context belongs to a request, so use a new one.
        asyncio.get_running_loop().call_soon(self._call_next, context=Context())

    def _call_next(self) -> None:
        callback = self._callbacks.popleft()
        if self._callbacks:
            self._schedule_next()
        callback()

    def add_unread(self, connection: Connection) -> None:
        """Record that a client has data to read. Abort the longest waiting connections while all
        of them together have more than `MAX_UNREAD_BYTES`.
        """
        self._unread[connection] = None
        unread = sum(one.transport.get_write_buffer_size() for one in self._unread)
        while unread > MAX_UNREAD_BYTES and len(self._unread) > 1:
            longest = next(iter(self._unread))
            unread -= longest.transport.get_write_buffer_size()
            self.abort(longest, "unread")

    def remove_unread(self, connection: Connection) -> None:
        self._unread.pop(connection, None)

    def record_refusal(self, connection: Connection, refusal: Refusal) -> None:
        """Count and log a request that the protocol refuses."""
        REQUESTS.labels(NO_ROUTE, refusal.status, "none").inc()
        reason = f"refused with {refusal.status}: {refusal.detail}"
        self.rejections.log(connection.host, reason)

    def abort(self, connection: Connection, reason: str) -> None:
        """Close a connection and discard its unread responses. `reason` is the metric's label."""
        self.remove(connection)
        CONNECTIONS_CLOSED.labels(reason).inc()
        self.rejections.log(connection.host, f"closed a connection: {_MEANINGS[reason]}")
        connection.transport.abort()

    def _abort_one(self, connections: Iterable[Connection], reason: str) -> None:
        """Abort the connection that has been idle longest, or inactive longest if none is idle."""
        self.abort(min(connections, key=lambda one: (not one.is_idle, one.active_at)), reason)
