"""Counters of requests in the memory of this process."""

from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic, time
from typing import Any, NamedTuple

from limits import RateLimitItem
from limits.errors import StorageError
from limits.storage import Storage

MAX_COUNTERS = 100_000
"""Maximum number of counters in a process, one per client and limit: some 40 MB. Beyond it, the
least recently used counter is evicted, and its client starts from zero.
"""


class CounterState:
    """The number of requests counted until `expires_at`, which is a monotonic time."""

    __slots__ = ("expires_at", "requests")

    def __init__(self, requests: int, expires_at: float) -> None:
        self.requests = requests
        self.expires_at = expires_at


class CounterKey(NamedTuple):
    """The key of a client's counter for one limit."""

    limit: RateLimitItem
    key: str
    amount: int
    period_seconds: int


Counters = tuple[CounterKey, ...]
"""The keys of all counters that a request of a client increments."""


def counters_of(client: str, items: Sequence[RateLimitItem]) -> Counters:
    """Return the keys of a client's counters for these limits."""
    return tuple(
        CounterKey(item, item.key_for(client), item.amount, item.get_expiry()) for item in items
    )


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
        self._counters: OrderedDict[str, CounterState] = OrderedDict()
        """Counters by key. The most recently used one comes last."""

    def count(self, key: str, expiry: int, amount: int = 1) -> CounterState:
        """Count a request. `incr` takes twice as long, because the limits library wraps it."""
        now = monotonic()
        counter = self._counters.get(key)
        if counter is None or counter.expires_at <= now:
            counter = self._counters[key] = CounterState(0, now + expiry)
            if len(self._counters) > MAX_COUNTERS:
                self._counters.popitem(last=False)
        self._counters.move_to_end(key)
        counter.requests += amount
        return counter

    def state(self, key: str) -> CounterState:
        counter = self._counters.get(key)
        return counter if counter and counter.expires_at > monotonic() else CounterState(0, 0.0)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self.count(key, expiry, amount).requests

    def get(self, key: str) -> int:
        return self.state(key).requests

    def get_expiry(self, key: str) -> float:
        """Return when the counter expires, in seconds since 1970."""
        return time() + max(self.state(key).expires_at - monotonic(), 0.0)

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        count = len(self._counters)
        self._counters.clear()
        return count

    def clear(self, key: str) -> None:
        self._counters.pop(key, None)
