"""Where requests are counted: in this process, or in a Redis that several share."""

from collections import OrderedDict
from threading import Lock
from time import time
from typing import Any

from limits.errors import StorageError
from limits.storage import Storage
from redis.backoff import NoBackoff
from redis.retry import Retry

MAX_COUNTERS = 100_000
"""That a process keeps, one a client and limit: some 40 MB. Beyond it those that were not used for
longest are forgotten, and their clients begin anew.
"""

SHARED_TIMEOUT_SECONDS = 0.25
"""For counting a request in a shared storage, which takes a millisecond or two."""


class BoundedMemoryStorage(Storage):
    """The one that limits brings keeps each counter until it expires, however many there are."""

    # Declared as the library does.
    STORAGE_SCHEME = ["memory+bounded"]  # noqa: RUF012

    def __init__(self, uri: str, **_: Any) -> None:
        super().__init__(uri)
        self._counters: OrderedDict[str, _Counter] = OrderedDict()
        """The one that was not used for longest comes first."""

        self._lock = Lock()

    @property
    def base_exceptions(self) -> type[Exception]:
        return StorageError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self.count(key, expiry, amount)[0]

    def count(self, key: str, expiry: int, amount: int = 1) -> tuple[int, float]:
        """What `incr` returns, and `get_expiry` after it. limits wraps a function around each of
        those, which takes as long as counting does.
        """
        with self._lock:
            now = time()
            counter = self._counters.get(key)
            if counter is None or counter.expires_at <= now:
                counter = self._counters[key] = _Counter(now + expiry)
            self._counters.move_to_end(key)
            if len(self._counters) > MAX_COUNTERS:
                self._counters.popitem(last=False)
            counter.count += amount
            return counter.count, counter.expires_at

    def get(self, key: str) -> int:
        counter = self._counters.get(key)
        return counter.count if counter and counter.expires_at > time() else 0

    def get_expiry(self, key: str) -> float:
        counter = self._counters.get(key)
        return counter.expires_at if counter else time()

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


SHARED_OPTIONS: dict[str, Any] = {
    "wrap_exceptions": True,
    "socket_timeout": SHARED_TIMEOUT_SECONDS,
    "socket_connect_timeout": SHARED_TIMEOUT_SECONDS,
    # Its own would let a request wait for seconds.
    "retry": Retry(NoBackoff(), 0),
}
"""For Redis."""
