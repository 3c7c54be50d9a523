"""Where requests are counted: in this process, or in a Redis that several share."""

import asyncio
from asyncio import Future, Task
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from threading import Lock
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


class Counted(NamedTuple):
    """The state of a counter."""

    requests: int
    resets_in_seconds: float


class BoundedMemoryStorage(Storage):
    """Counters in memory, at most `MAX_COUNTERS`. The storage of limits has no such bound.

    They expire by monotonic time: a wall clock that is set back would keep a client blocked.
    """

    # Declared as the library does.
    STORAGE_SCHEME = ["memory+bounded"]  # noqa: RUF012

    def __init__(self, uri: str, **_: Any) -> None:
        super().__init__(uri)
        self._counters: OrderedDict[str, _Counter] = OrderedDict()
        """Ordered by their last use, the latest last."""

        self._lock = Lock()

    @property
    def base_exceptions(self) -> type[Exception]:
        return StorageError

    def count(self, key: str, expiry: int, amount: int = 1) -> Counted:
        """Count a request. limits wraps `incr` and `get_expiry` in a function each, which takes as
        long as counting.
        """
        with self._lock:
            now = monotonic()
            counter = self._counters.get(key)
            if counter is None or counter.expires_at <= now:
                counter = self._counters[key] = _Counter(now + expiry)
            self._counters.move_to_end(key)
            if len(self._counters) > MAX_COUNTERS:
                self._counters.popitem(last=False)
            counter.count += amount
            return Counted(counter.count, counter.expires_at - now)

    def state(self, key: str) -> Counted:
        counter = self._counters.get(key)
        left = counter.expires_at - monotonic() if counter else 0.0
        return Counted(counter.count, left) if counter and left > 0 else Counted(0, 0.0)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self.count(key, expiry, amount).requests

    def get(self, key: str) -> int:
        return self.state(key).requests

    def get_expiry(self, key: str) -> float:
        """The library wants it in seconds since 1970."""
        return time() + self.state(key).resets_in_seconds

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        count = len(self._counters)
        self._counters.clear()
        return count

    def clear(self, key: str) -> None:
        with self._lock:
            self._counters.pop(key, None)


class _Counter:
    __slots__ = ("count", "expires_at")

    def __init__(self, expires_at: float) -> None:
        self.count = 0
        self.expires_at = expires_at
        """In monotonic time."""


SHARED_OPTIONS: dict[str, Any] = {
    "socket_timeout": SHARED_TIMEOUT_SECONDS,
    "socket_connect_timeout": SHARED_TIMEOUT_SECONDS,
    # Its own would let a request wait for seconds.
    "retry": Retry(NoBackoff(), 0),
}
"""For Redis."""

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
    """In a Redis, those that limits has there: other processes, and other versions, count with it.

    Those who ask while others are counted are counted together after them, which takes one way to
    Redis and back, however many they are and whatever their limits. By itself limits takes one for
    each limit and request, and one more.
    """

    def __init__(self, storage: RedisStorage, items: Sequence[RateLimitItem]) -> None:
        self._storage = storage
        self._limits = len(items)
        self._count_all = storage.get_connection().register_script(_COUNT)
        self._arguments = [
            self._limits,
            *(number for item in items for number in (item.amount, item.get_expiry())),
        ]
        # Of its own, that nothing else has to wait for in an outage.
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[Sequence[str], Future[list[Counted]]]] = []
        self._counting: Task[None] | None = None

    async def count(self, keys: Sequence[str]) -> list[Counted]:
        """Count a request in the counters of these keys, one for each limit.

        Raises `StorageError`, and `TimeoutError` after `SHARED_TIMEOUT_SECONDS`.
        """
        loop = asyncio.get_running_loop()
        counted: Future[list[Counted]] = loop.create_future()
        self._waiting.append((keys, counted))
        if self._counting is None or self._counting.done():
            # Not in the context of the request that happened to be the first.
            self._counting = loop.create_task(self._count_waiting(), context=Context())
        async with asyncio.timeout(SHARED_TIMEOUT_SECONDS):
            return await counted

    def close(self) -> None:
        if self._counting:
            self._counting.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _count_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            # Who has given up was counted elsewhere.
            asked = [one for one in self._waiting if not one[1].done()]
            self._waiting = []
            if not asked:
                continue
            keys = [key for of_one, _ in asked for key in of_one]
            try:
                counted = await loop.run_in_executor(self._thread, self._count, keys)
            except StorageError as error:
                for _, waiting in asked:
                    if not waiting.done():
                        waiting.set_exception(error)
            else:
                for number, (_, waiting) in enumerate(asked):
                    if not waiting.done():
                        first = number * self._limits
                        waiting.set_result(counted[first : first + self._limits])

    def _count(self, keys: Sequence[str]) -> list[Counted]:
        prefixed = [self._storage.prefixed_key(key) for key in keys]
        try:
            told: list[int] = self._count_all(prefixed, self._arguments)
        # A host that can't be one is found out by the encoding of names.
        except (RedisError, UnicodeError) as error:
            raise StorageError(error) from error
        return [
            Counted(requests, max(milliseconds, 0) / 1000)
            for requests, milliseconds in zip(told[::2], told[1::2], strict=True)
        ]
