"""How many requests a client may make. The library `limits` has the syntax and the storages."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from datetime import datetime
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import limits
from limits.errors import StorageError
from limits.storage import RedisStorage, storage_from_string

from app.api.headers import Headers
from app.metrics import RATE_LIMIT_STORAGE_UP
from app.serving.limit_storage import BoundedMemoryStorage, Counted

if TYPE_CHECKING:
    from app.serving.shared_counters import SharedCounters

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""Time between two attempts to reach a shared storage that failed."""

_PROBE = "probe"
"""Client for which the recovery check counts."""


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
    """One budget for each client, of one or several limits such as `10/second;300/minute`.

    With the `storage_uri` of a Redis, all processes that use it share the budget. While it can't be
    reached, each process counts for itself.
    """

    def __init__(self, rate_limits: str, storage_uri: str | None) -> None:
        self._items = sorted(limits.parse_many(rate_limits), key=lambda item: item.get_expiry())
        self._keys = lru_cache(maxsize=1024)(
            lambda client: [item.key_for(client) for item in self._items]
        )
        self._own = BoundedMemoryStorage("memory+bounded://")
        self._shared: SharedCounters | None = None
        if storage_uri:
            from app.serving import shared_counters  # noqa: PLC0415 - redis is slow to import

            shared = storage_from_string(storage_uri, **shared_counters.SHARED_OPTIONS)
            assert isinstance(shared, RedisStorage)
            self._shared = shared_counters.SharedCounters(shared, self._items)
            RATE_LIMIT_STORAGE_UP.labels("redis").set(1)
        self.waits = self._shared is not None
        """True if counting waits for a shared storage."""

        self._recovery: asyncio.Task[None] | None = None

    async def count(self, client: str) -> RateLimitState:
        """Count a request of the client."""
        if self._shared and self.waits:
            try:
                return self._state(await self._shared.count(self._keys(client)))
            except StorageError as error:
                self._use_own(error)
        return self.count_at_once(client)

    def count_at_once(self, client: str) -> RateLimitState:
        """Count a request of the client in this process."""
        counted = []
        is_refused = False
        for item, key in zip(self._items, self._keys(client), strict=True):
            if is_refused:
                # A request that a limit refuses does not count for the limits after it.
                counter = self._own.state(key)
            else:
                counter = self._own.count(key, item.get_expiry())
                is_refused = counter.requests > item.amount
            counted.append(counter)
        return self._state(counted)

    def _state(self, counted: Sequence[Counted]) -> RateLimitState:
        """Choose the limit with the fewest requests left, and of equal ones the last to reset."""
        closest, fewest, latest, exceeded = self._items[0], self._items[0].amount, 0.0, False
        for item, (requests, resets_in_seconds) in zip(self._items, counted, strict=True):
            remaining = item.amount - requests
            if remaining < 0:
                remaining, exceeded = 0, True
            if remaining < fewest or (remaining == fewest and resets_in_seconds > latest):
                closest, fewest, latest = item, remaining, resets_in_seconds
        return RateLimitState(closest, fewest, latest, exceeded)

    def _use_own(self, error: StorageError) -> None:
        if self.waits:
            self.waits = False
            RATE_LIMIT_STORAGE_UP.labels("redis").set(0)
            log.warning(
                "the storage of the rate limits can't be reached, so each process counts: %s",
                error,
            )
            # An own context, because the current one belongs to a request.
            self._recovery = asyncio.get_running_loop().create_task(
                self._return_to_shared(), context=Context()
            )

    async def _return_to_shared(self) -> None:
        assert self._shared
        while not self.waits:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(StorageError):
                # A storage may respond and yet not be writable.
                await self._shared.count(self._keys(_PROBE))
                self.waits = True
        RATE_LIMIT_STORAGE_UP.labels("redis").set(1)
        log.info("the storage of the rate limits is back")

    def close(self) -> None:
        if self._shared:
            self._shared.close()
        # Requests that still wait may have started the recovery.
        if self._recovery:
            self._recovery.cancel()
