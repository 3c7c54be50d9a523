"""How many requests one client may make.

slowapi holds the limits and their storage. What asks them is ours: slowapi's middlewares look for
the route, do not find one that belongs to an included router, and spend six times as long on a
check as counting takes.
"""

import asyncio
import logging
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_address
from math import ceil
from time import time
from typing import Any, NamedTuple

import limits
from limits.errors import StorageError
from slowapi import Limiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.limit_storage import SHARED_OPTIONS, BoundedMemoryStorage
from app.api.problem_details import problem
from app.metrics import RATE_LIMIT_STORAGE_UP, RATE_LIMITED

log = logging.getLogger(__name__)

LIMITED_PREFIX = "/api/"

RETRY_SECONDS = 2.0
"""Until a shared storage that failed is tried again."""

IPV6_CLIENT_BITS = 64
"""What a provider hands to one customer, who may use any address in it."""

_PROBE = "probe"


class Standing(NamedTuple):
    """Where a client stands with the limit that it is closest to."""

    limit: limits.RateLimitItem
    remaining: int
    resets_at: float
    """In seconds since 1970."""

    exceeded: bool


class RateLimits:
    """One budget for each client over all that is limited.

    `rate_limits` is as in the setting of that name, and not empty. A `storage_uri` of Redis shares
    the budget with all who use the same; while that is away, each process counts for itself.
    """

    def __init__(self, rate_limits: str, storage_uri: str | None) -> None:
        items = limits.parse_many(rate_limits)
        self._keys = lru_cache(maxsize=4096)(
            lambda client: [(item, item.key_for(client)) for item in items]
        )
        (scheme,) = BoundedMemoryStorage.STORAGE_SCHEME
        self._own = _limiter(rate_limits, f"{scheme}://", {})
        self._shared = storage_uri and _limiter(rate_limits, storage_uri, SHARED_OPTIONS)
        self._is_shared_up = bool(self._shared)
        self._recovery: asyncio.Task[None] | None = None
        RATE_LIMIT_STORAGE_UP.set(1)

    async def count(self, client: str) -> Standing:
        """Count a request of the client."""
        if self._shared and self._is_shared_up:
            try:
                # In a thread: it waits for the network.
                return await asyncio.to_thread(self._count, self._shared, client)
            except StorageError as error:
                self._use_own(error)
        return self._count(self._own, client)

    def _count(self, limiter: Limiter, client: str) -> Standing:
        storage = limiter.limiter.storage
        closest: tuple[int, limits.RateLimitItem, str] | None = None
        for item, key in self._keys(client):
            remaining = item.amount - storage.incr(key, item.get_expiry())
            if remaining < 0:
                return Standing(item, 0, storage.get_expiry(key), exceeded=True)
            if closest is None or remaining < closest[0]:
                closest = remaining, item, key
        assert closest
        remaining, item, key = closest
        return Standing(item, remaining, storage.get_expiry(key), exceeded=False)

    def _use_own(self, error: StorageError) -> None:
        if self._is_shared_up:
            self._is_shared_up = False
            RATE_LIMIT_STORAGE_UP.set(0)
            log.warning("the storage of the rate limits is away, each process counts: %s", error)
            self._recovery = asyncio.create_task(self._return_to_shared())

    async def _return_to_shared(self) -> None:
        assert self._shared
        while not self._is_shared_up:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(StorageError):
                # Not only that it answers: that it counts.
                await asyncio.to_thread(self._shared.limiter.storage.incr, _PROBE, 1)
                self._is_shared_up = True
        RATE_LIMIT_STORAGE_UP.set(1)
        log.info("the storage of the rate limits is back")

    def close(self) -> None:
        if self._recovery:
            self._recovery.cancel()


def _limiter(rate_limits: str, storage_uri: str, options: dict[str, Any]) -> Limiter:
    return Limiter(
        key_func=lambda request: client_of(request.scope),
        application_limits=[rate_limits],
        storage_uri=storage_uri,
        storage_options=dict(options),
    )


class RateLimitMiddleware:
    """Limits the paths under `/api/`, those that lead nowhere included.

    Every limited answer says in its headers how many requests the limit that the client is closest
    to allows, how many of them remain, and when it starts anew, in seconds since 1970.
    """

    def __init__(self, app: ASGIApp, rate_limits: RateLimits) -> None:
        self._app = app
        self._rate_limits = rate_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].startswith(LIMITED_PREFIX):
            await self._app(scope, receive, send)
            return
        standing = await self._rate_limits.count(client_of(scope))
        headers = [
            (b"x-ratelimit-limit", b"%d" % standing.limit.amount),
            (b"x-ratelimit-remaining", b"%d" % standing.remaining),
            (b"x-ratelimit-reset", b"%d" % ceil(standing.resets_at)),
        ]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        if standing.exceeded:
            RATE_LIMITED.inc()
            seconds = max(1, ceil(standing.resets_at - time()))
            detail = f"One client may make {standing.limit} requests: wait {seconds} s."
            answer: ASGIApp = problem(429, detail, headers={"Retry-After": str(seconds)})
        else:
            answer = self._app
        await answer(scope, receive, send_with_headers)


def client_of(scope: Scope) -> str:
    """Whom a request is counted for: an address, or the network that one IPv6 customer has."""
    client = scope.get("client")
    return _client_at(client[0]) if client else "local"


@lru_cache(maxsize=4096)
def _client_at(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        # A proxy that is trusted may call its clients what it likes.
        return host
    if isinstance(address, IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), IPV6_CLIENT_BITS), strict=False))
