"""How many requests one client may make.

slowapi holds the limits and their storage. What asks them is ours: slowapi's middlewares look for
the route, do not find one that belongs to an included router, and spend six times as long on a
check as counting takes.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_address
from math import ceil
from operator import itemgetter
from typing import Any, NamedTuple

import limits
from limits.errors import StorageError
from limits.storage import RedisStorage, Storage
from slowapi import Limiter

from app.api.headers import Headers
from app.metrics import RATE_LIMIT_STORAGE_UP
from app.serving.limit_storage import (
    SHARED_OPTIONS,
    SHARED_TIMEOUT_SECONDS,
    BoundedMemoryStorage,
    Counted,
    SharedCounters,
)

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""Time between two attempts to reach a shared storage that failed."""

IPV6_CLIENT_BITS = 64
"""Length of the network that one IPv6 customer has."""

_PROBE = "probe"
"""Name under which the recovery check counts."""


class RateLimitState(NamedTuple):
    """A client's state with the limit that it is closest to."""

    limit: limits.RateLimitItem
    remaining: int
    resets_in_seconds: float
    exceeded: bool

    def headers(self, now: datetime) -> Headers:
        resets_at = now.timestamp() + self.resets_in_seconds
        return [
            (b"x-ratelimit-limit", b"%d" % self.limit.amount),
            (b"x-ratelimit-remaining", b"%d" % self.remaining),
            (b"x-ratelimit-reset", b"%d" % ceil(resets_at)),
        ]


class RateLimits:
    """One budget for each client over all that is limited.

    `rate_limits` is as in the setting of that name, and not empty. A `storage_uri` of Redis shares
    the budget with all who use the same; while that is away, each process counts for itself.
    """

    def __init__(self, rate_limits: str, storage_uri: str | None) -> None:
        self._items = sorted(limits.parse_many(rate_limits), key=lambda item: item.get_expiry())
        self._keys = lru_cache(maxsize=1024)(
            lambda client: [item.key_for(client) for item in self._items]
        )
        (scheme,) = BoundedMemoryStorage.STORAGE_SCHEME
        own = _storage(rate_limits, f"{scheme}://", {})
        assert isinstance(own, BoundedMemoryStorage)
        self._own = own
        self._shared = self._shared_counters(rate_limits, storage_uri) if storage_uri else None
        self._is_shared_up = bool(self._shared)
        self._recovery: asyncio.Task[None] | None = None
        if self._shared:
            RATE_LIMIT_STORAGE_UP.labels("redis").set(1)

    def _shared_counters(self, rate_limits: str, storage_uri: str) -> SharedCounters:
        storage = _storage(rate_limits, storage_uri, SHARED_OPTIONS)
        assert isinstance(storage, RedisStorage)
        return SharedCounters(storage, self._items)

    async def count(self, client: str) -> RateLimitState:
        """Count a request of the client."""
        if self._shared and self._is_shared_up:
            try:
                return self._state(await self._shared.count(self._keys(client)))
            except (StorageError, TimeoutError) as error:
                self._use_own(error)
        return self.count_at_once(client)

    @property
    def waits(self) -> bool:
        """True if counting waits for a shared storage."""
        return self._is_shared_up

    def count_at_once(self, client: str) -> RateLimitState:
        """Count a request of the client in this process."""
        counted = []
        is_refused = False
        for item, key in zip(self._items, self._keys(client), strict=True):
            if is_refused:
                # What a limit refuses does not count for those after it.
                of_limit = self._own.state(key)
            else:
                of_limit = self._own.count(key, item.get_expiry())
                is_refused = of_limit.requests > item.amount
            counted.append(of_limit)
        return self._state(counted)

    def _state(self, counted: Sequence[Counted]) -> RateLimitState:
        """By what was counted of each limit."""
        closest, resets_in_seconds, fewest = self._items[0], 0.0, self._items[0].amount
        for item, of_limit in zip(self._items, counted, strict=True):
            remaining = item.amount - of_limit.requests
            if remaining < 0:
                return self._exceeded(counted)
            # Of two that are as close, the one that lasts longer: the shortest comes first.
            if remaining <= fewest:
                closest, resets_in_seconds, fewest = item, of_limit.resets_in_seconds, remaining
        return RateLimitState(closest, fewest, resets_in_seconds, exceeded=False)

    def _exceeded(self, counted: Sequence[Counted]) -> RateLimitState:
        """By the limit that lasts longest, of those that are used up: until then all is refused."""
        resets_in_seconds, item = max(
            (
                (of_limit.resets_in_seconds, item)
                for item, of_limit in zip(self._items, counted, strict=True)
                if of_limit.requests >= item.amount
            ),
            key=itemgetter(0),
        )
        return RateLimitState(item, 0, resets_in_seconds, exceeded=True)

    def _use_own(self, error: StorageError | TimeoutError) -> None:
        if self._is_shared_up:
            self._is_shared_up = False
            RATE_LIMIT_STORAGE_UP.labels("redis").set(0)
            log.warning(
                "the storage of the rate limits is away, each process counts: %s",
                str(error) or f"no answer in {SHARED_TIMEOUT_SECONDS} s",
            )
            # Not in the context of the request that happened to find out.
            self._recovery = asyncio.get_running_loop().create_task(
                self._return_to_shared(), context=Context()
            )

    async def _return_to_shared(self) -> None:
        assert self._shared
        while not self._is_shared_up:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(StorageError, TimeoutError):
                # Not only that it answers: that it counts.
                await self._shared.count(self._keys(_PROBE))
                self._is_shared_up = True
        RATE_LIMIT_STORAGE_UP.labels("redis").set(1)
        log.info("the storage of the rate limits is back")

    def close(self) -> None:
        if self._shared:
            self._shared.close()
        # Last: who was still waiting may have begun it.
        if self._recovery:
            self._recovery.cancel()


def _storage(rate_limits: str, storage_uri: str, options: dict[str, Any]) -> Storage:
    limiter = Limiter(
        key_func=lambda request: client_key(request.client.host),
        application_limits=[rate_limits],
        storage_uri=storage_uri,
        storage_options=dict(options),
    )
    return limiter.limiter.storage


@lru_cache(maxsize=4096)
def client_key(host: str) -> str:
    """Return the client to count: an address, or the network of one IPv6 customer."""
    try:
        address = ip_address(host)
    except ValueError:
        # A connection without an address, such as a Unix socket.
        return "local"
    if isinstance(address, IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), IPV6_CLIENT_BITS), strict=False))
