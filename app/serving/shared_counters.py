"""Counters in a Redis that several processes share. Importing this imports the Redis client."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

from limits.errors import StorageError
from limits.storage import RedisStorage
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from app.serving.limit_storage import Counters, CounterState

SHARED_TIMEOUT_SECONDS = 0.25
"""Timeout for counting a request in a shared storage, which usually takes a millisecond or two."""

SHARED_OPTIONS: dict[str, Any] = {
    "socket_timeout": SHARED_TIMEOUT_SECONDS,
    "socket_connect_timeout": SHARED_TIMEOUT_SECONDS,
    # The client's default would retry for seconds.
    "retry": Retry(NoBackoff(), 0),
}
"""Options of the Redis client."""

# KEYS are counters. ARGV has four numbers for each of them: 1 for the first counter of a request or
# else 0, the requests that its limit allows, the limit's period in seconds, and how often the
# request counts. A request that exceeds a limit does not count for the limits after it.
#
# Redis expires keys by its wall clock. A key that would last longer than its limit's period was set
# before that clock was set back, and is set to the period.
_COUNT = b"""
local counted = {}
local refused
for place, key in ipairs(KEYS) do
  local first, amount, period, cost = unpack(ARGV, 4 * place - 3, 4 * place)
  period = 1000 * period
  if first == "1" then refused = false end
  local count
  if refused then
    count = tonumber(redis.call("GET", key) or 0)
  else
    count = redis.call("INCRBY", key, cost)
    refused = count > tonumber(amount)
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

    Requests that arrive while a batch is counted form the next batch. A batch takes one round trip
    for any number of requests and limits. The limits library takes two for each limit of a request.
    """

    def __init__(self, storage: RedisStorage) -> None:
        self._prefixed_key = storage.prefixed_key
        self._count_all = storage.get_connection().register_script(_COUNT)
        # A thread of its own, because it is blocked most of the time during an outage.
        self._thread = ThreadPoolExecutor(1)
        self._counting = asyncio.Lock()
        self._keys: list[str] = []
        """Keys of the next batch."""

        self._numbers: list[int] = []
        """Arguments of the script for these keys."""

        self._batch: asyncio.Task[list[CounterState]] | None = None

    async def count(self, counters: Counters, cost: int) -> list[CounterState]:
        """Count a request in these counters, one for each limit.

        Raises `StorageError`, after `SHARED_TIMEOUT_SECONDS` at the latest.
        """
        if not self._keys:
            self._batch = asyncio.create_task(self._count_batch())
        batch, first = self._batch, len(self._keys)
        assert batch
        for place, (_, key, amount, period_seconds) in enumerate(counters):
            self._keys.append(key)
            self._numbers += (int(place == 0), amount, period_seconds, min(cost, amount))
        try:
            async with asyncio.timeout(SHARED_TIMEOUT_SECONDS):
                counted = await asyncio.shield(batch)
        except TimeoutError as error:
            reason = f"no answer in {SHARED_TIMEOUT_SECONDS} s"
            raise StorageError(TimeoutError(reason)) from error
        return counted[first : first + len(counters)]

    def close(self) -> None:
        if self._batch:
            self._batch.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _count_batch(self) -> list[CounterState]:
        async with self._counting:
            keys, self._keys = self._keys, []
            arguments, self._numbers = self._numbers, []
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._count, keys, arguments)

    def _count(self, keys: Sequence[str], arguments: Sequence[int]) -> list[CounterState]:
        try:
            numbers: list[int] = self._count_all([*map(self._prefixed_key, keys)], arguments)
        # Encoding an invalid host name raises a UnicodeError.
        except (RedisError, UnicodeError) as error:
            raise StorageError(error) from error
        now = monotonic()
        return [
            CounterState(requests, now + max(milliseconds, 0) / 1000)
            for requests, milliseconds in zip(numbers[::2], numbers[1::2], strict=True)
        ]
