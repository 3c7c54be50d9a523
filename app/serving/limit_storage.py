"""Storages that count requests: in this process, or in a Redis that several processes share."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, time
from typing import Any, NamedTuple

from limits import RateLimitItem
from limits.errors import StorageError
from limits.storage import RedisStorage, Storage
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

MAX_COUNTERS = 100_000
"""Maximum number of counters in a process, one per client and limit: some 40 MB. Beyond it, the
least recently used counter is evicted, and its client starts from zero.
"""

SHARED_TIMEOUT_SECONDS = 0.25
"""Timeout for counting a request in a shared storage, which usually takes a millisecond or two."""

SHARED_OPTIONS: dict[str, Any] = {
    "socket_timeout": SHARED_TIMEOUT_SECONDS,
    "socket_connect_timeout": SHARED_TIMEOUT_SECONDS,
    # The client's default would retry for seconds.
    "retry": Retry(NoBackoff(), 0),
}
"""Options of the Redis client."""


class Counted(NamedTuple):
    """The state of a counter."""

    requests: int
    resets_in_seconds: float


class BoundedMemoryStorage(Storage):
    """A storage of limits with at most `MAX_COUNTERS` counters, for one thread.

    The library's own is unbounded and expires counters by the wall clock, which would keep a client
    blocked after the clock is set back.
    """

    # The library declares the attribute as a list.
    STORAGE_SCHEME = ["memory+bounded"]  # noqa: RUF012

    base_exceptions = StorageError

    def __init__(self, uri: str, **_: Any) -> None:
        super().__init__(uri)
        self._counters: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Numbers of requests and the monotonic times at which they expire, by key. The most
        recently used counter comes last.
        """

    def count(self, key: str, expiry: int, amount: int = 1) -> Counted:
        """Count a request. The wrapper that limits puts around `incr` takes as long as counting."""
        now = monotonic()
        requests, expires_at = self._counters.pop(key, (0, 0.0))
        if expires_at <= now:
            requests, expires_at = 0, now + expiry
        requests += amount
        self._counters[key] = requests, expires_at
        if len(self._counters) > MAX_COUNTERS:
            self._counters.popitem(last=False)
        return Counted(requests, expires_at - now)

    def state(self, key: str) -> Counted:
        requests, expires_at = self._counters.get(key, (0, 0.0))
        left = expires_at - monotonic()
        return Counted(requests, left) if left > 0 else Counted(0, 0.0)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self.count(key, expiry, amount).requests

    def get(self, key: str) -> int:
        return self.state(key).requests

    def get_expiry(self, key: str) -> float:
        """Return when the counter expires, in seconds since 1970."""
        return time() + self.state(key).resets_in_seconds

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        count = len(self._counters)
        self._counters.clear()
        return count

    def clear(self, key: str) -> None:
        self._counters.pop(key, None)


# KEYS are the counters of the clients, one for each limit. ARGV is the number of limits, then for
# each limit its number of requests and its period in seconds. A request that a limit refuses does
# not count for the limits after it.
#
# Redis expires keys by its wall clock. A key that would last longer than its limit's period was set
# before that clock was set back, and gets the period anew.
_COUNT = b"""
local limits = tonumber(ARGV[1])
local counted = {}
local refused
for place, key in ipairs(KEYS) do
  local limit = (place - 1) % limits
  if limit == 0 then refused = false end
  local period = 1000 * ARGV[2 * limit + 3]
  local count
  if refused then
    count = tonumber(redis.call("GET", key) or 0)
  else
    count = redis.call("INCR", key)
    refused = count > tonumber(ARGV[2 * limit + 2])
  end
  local left = redis.call("PTTL", key)
  if count > 0 and (left < 0 or left > period) then
    redis.call("PEXPIRE", key, period)
    left = period
  end
  counted[2 * place - 1] = count
  counted[2 * place] = left
end
return counted
"""


class SharedCounters:
    """Counters in a Redis storage of limits.

    Requests that arrive while others are counted are counted together after them, in one round trip
    for any number of requests and limits. By itself limits takes two round trips for each limit.
    """

    def __init__(self, storage: RedisStorage, items: Sequence[RateLimitItem]) -> None:
        self._prefixed_key = storage.prefixed_key
        self._count_all = storage.get_connection().register_script(_COUNT)
        self._arguments = [
            len(items),
            *(number for item in items for number in (item.amount, item.get_expiry())),
        ]
        # During an outage the thread is blocked most of the time, so nothing else uses it.
        self._thread = ThreadPoolExecutor(1)
        self._counting = asyncio.Lock()
        self._keys: list[str] = []
        """Keys of the next batch."""

        self._batch: asyncio.Task[list[Counted]] | None = None

    async def count(self, keys: Sequence[str]) -> list[Counted]:
        """Count a request in the counters of these keys, one for each limit.

        Raises `StorageError`, and `TimeoutError` after `SHARED_TIMEOUT_SECONDS`.
        """
        if not self._keys:
            self._batch = asyncio.create_task(self._count_batch())
        batch, first = self._batch, len(self._keys)
        assert batch
        self._keys += keys
        async with asyncio.timeout(SHARED_TIMEOUT_SECONDS):
            counted = await asyncio.shield(batch)
        return counted[first : first + len(keys)]

    def close(self) -> None:
        if self._batch:
            self._batch.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _count_batch(self) -> list[Counted]:
        async with self._counting:
            keys, self._keys = self._keys, []
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._count, keys)

    def _count(self, keys: Sequence[str]) -> list[Counted]:
        try:
            numbers: list[int] = self._count_all([*map(self._prefixed_key, keys)], self._arguments)
        # Encoding an invalid host name raises a UnicodeError.
        except (RedisError, UnicodeError) as error:
            raise StorageError(error) from error
        return [
            Counted(requests, max(milliseconds, 0) / 1000)
            for requests, milliseconds in zip(numbers[::2], numbers[1::2], strict=True)
        ]
