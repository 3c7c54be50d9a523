"""A storage that counts requests in this process."""

from collections import OrderedDict
from time import monotonic, time
from typing import Any, NamedTuple

from limits.errors import StorageError
from limits.storage import Storage

MAX_COUNTERS = 100_000
"""Maximum number of counters in a process, one per client and limit: some 40 MB. Beyond it, the
least recently used counter is evicted, and its client starts from zero.
"""


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
