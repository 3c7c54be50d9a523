"""Rate limits. slowapi's `Limiter` creates the storages, and the dispatcher counts in them.

Its middlewares are not used: they do not find the routes of included routers, and one check takes
six times as long as counting.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import limits
from limits.errors import StorageError
from limits.storage import RedisStorage, Storage
from slowapi import Limiter

from app.domain.client_limits import parse_client_limits, parse_limits
from app.metrics import RATE_LIMIT_STORAGE_UP
from app.serving.limit_storage import BoundedMemoryStorage, Counters, CounterState, counters_of
from app.serving.proxies import client_key

if TYPE_CHECKING:
    from app.serving.shared_counters import SharedCounters

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 2.0
"""Time between two attempts to reach a shared storage that failed."""

BURST_SECONDS = 60
"""Badges do not count for limits with a shorter period, because all badges of a page are requested
at once. They count if all limits of a client are shorter.
"""


class LimitedClient(NamedTuple):
    """A client, with the counters of its requests."""

    counters: Counters
    badge_counters: Counters
    has_key: bool = False
    has_wrong_key: bool = False


def _limited(client: str, items: Sequence[limits.RateLimitItem], **flags: bool) -> LimitedClient:
    for_bursts = [item for item in items if item.get_expiry() >= BURST_SECONDS]
    counters = counters_of(client, items)
    badge_counters = counters_of(client, for_bursts or items)
    return LimitedClient(counters, badge_counters, **flags)


_PROBE = counters_of("probe", parse_limits("1/second"))
"""Counters that `_reconnect` uses to test whether the shared storage works again."""


class RateLimitState(NamedTuple):
    """The state of the limit that a client is closest to exceeding."""

    limit: limits.RateLimitItem
    remaining: int
    resets_in_seconds: float
    exceeded: bool

    def header_lines(self, now: datetime) -> bytes:
        """Return the headers that report it, as bytes on the wire."""
        return (
            b"x-ratelimit-limit: %d\r\nx-ratelimit-remaining: %d\r\nx-ratelimit-reset: %d\r\n"
            % (self.limit.amount, self.remaining, ceil(now.timestamp() + self.resets_in_seconds))
        )


class RateLimits:
    """One budget for each client, of one or several limits such as `10/second;300/minute`.

    `client_limits` gives some clients other limits, or none. With the `storage_uri` of a Redis, all
    processes that use it share the budgets. While it can't be reached, each process counts its own
    requests.
    """

    def __init__(
        self, rate_limits: str, client_limits: str = "", storage_uri: str | None = None
    ) -> None:
        self._items = parse_limits(rate_limits)
        known = parse_client_limits(client_limits) if client_limits else []
        self._by_digest = {
            client: _limited(client.hex(), items, has_key=True)
            for client, items in known
            if isinstance(client, bytes)
        }
        self._by_network = sorted(
            ((client, items) for client, items in known if not isinstance(client, bytes)),
            key=lambda one: -one[0].prefixlen,
        )
        self._at_address = lru_cache(maxsize=4096)(self._find_at_address)
        local = _storage(rate_limits, "memory+bounded://")
        assert isinstance(local, BoundedMemoryStorage)
        self._local = local
        self._shared: SharedCounters | None = None
        if storage_uri:
            from app.serving import shared_counters  # noqa: PLC0415 - redis is slow to import

            shared = _storage(rate_limits, storage_uri, **shared_counters.SHARED_OPTIONS)
            assert isinstance(shared, RedisStorage)
            self._shared = shared_counters.SharedCounters(shared)
            RATE_LIMIT_STORAGE_UP.labels("redis").set(1)
        self.uses_shared_storage = self._shared is not None
        """True if there is a shared storage and it can be reached."""

        self._recovery: asyncio.Task[None] | None = None

    def client(self, address: str, headers: Mapping[bytes, bytes]) -> LimitedClient:
        """Return the client of a request: the owner of its key, or else its address.

        If the settings have no keys, keys in requests are ignored: they are for another service.
        """
        key = _given_key(headers) if self._by_digest else b""
        client = self._at_address(address)
        if not key:
            return client
        digest = sha256(key).digest()
        # All digests are compared, each in constant time.
        owners = [one for known, one in self._by_digest.items() if compare_digest(known, digest)]
        return owners[0] if owners else client._replace(has_key=True, has_wrong_key=True)

    def _find_at_address(self, address: str) -> LimitedClient:
        client = client_key(address)
        # A connection without an address has no network.
        with suppress(ValueError):
            exact = ip_address(address.partition("%")[0] if "/" in client else client)
            for network, items in self._by_network:
                if exact in network:
                    return _limited(client, items)
        return _limited(client, self._items)

    async def count(self, counters: Counters, cost: int = 1) -> RateLimitState | None:
        """Count a request. Return None if nothing limits it."""
        if self._shared and self.uses_shared_storage and counters:
            try:
                return _state(counters, await self._shared.count(counters, cost))
            except StorageError as error:
                self._use_local(error)
        return self.count_at_once(counters, cost)

    def count_at_once(self, counters: Counters, cost: int = 1) -> RateLimitState | None:
        """Count a request in this process. Return None if nothing limits it."""
        if not counters:
            return None
        count = self._local.count
        counted = [count(one.key, one.period_seconds, min(cost, one.amount)) for one in counters]
        state = _state(counters, counted)
        if not state.exceeded:
            return state
        # A request that a limit refuses does not count for the limits after it.
        is_refused = False
        for (_, _, amount, _), counter in zip(counters, counted, strict=True):
            if is_refused:
                counter.requests -= min(cost, amount)
            is_refused = is_refused or counter.requests > amount
        return _state(counters, counted)

    def _use_local(self, error: StorageError) -> None:
        if self.uses_shared_storage:
            self.uses_shared_storage = False
            RATE_LIMIT_STORAGE_UP.labels("redis").set(0)
            log.warning(
                "can't reach the storage of the rate limits, so each process counts alone: %s",
                error,
            )
            # The current context belongs to a request, so use a new one.
            self._recovery = asyncio.get_running_loop().create_task(
                self._reconnect(), context=Context()
            )

    async def _reconnect(self) -> None:
        assert self._shared
        while not self.uses_shared_storage:
            await asyncio.sleep(RECONNECT_SECONDS)
            with suppress(StorageError):
                # Test it by counting, because a storage that responds may still be read-only.
                await self._shared.count(_PROBE, 1)
                self.uses_shared_storage = True
        RATE_LIMIT_STORAGE_UP.labels("redis").set(1)
        log.info("the storage of the rate limits is back")

    def close(self) -> None:
        if self._shared:
            self._shared.close()
        # Requests that still wait may have started the recovery.
        if self._recovery:
            self._recovery.cancel()


def _storage(rate_limits: str, storage_uri: str, **options: Any) -> Storage:
    limiter = Limiter(
        key_func=lambda request: client_key(request.client.host),
        application_limits=[rate_limits],
        storage_uri=storage_uri,
        storage_options=options,
        strategy="fixed-window",
    )
    return limiter.limiter.storage


def _state(counters: Counters, counted: Sequence[CounterState]) -> RateLimitState:
    """Choose the limit with the fewest requests left, and of equal ones the last to reset."""
    closest, _, fewest, _ = counters[0]
    latest, exceeded = 0.0, False
    for (limit, _, amount, _), counter in zip(counters, counted, strict=True):
        remaining = amount - counter.requests
        if remaining < 0:
            remaining, exceeded = 0, True
        if remaining < fewest or (remaining == fewest and counter.expires_at > latest):
            closest, fewest, latest = limit, remaining, counter.expires_at
    return RateLimitState(closest, fewest, max(latest - monotonic(), 0.0), exceeded)


def _given_key(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the key of a request, or an empty one. Other schemes than `Bearer` are ignored."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    bearer = token.strip() if scheme.lower() == b"bearer" else b""
    return headers.get(b"x-api-key", b"").strip() or bearer
