"""The readiness check, which queries the database at most once per second."""

import asyncio
from time import monotonic

from app.db.migrations import check_migrated
from app.db.pool import ReadPool
from app.errors import DatabaseUnavailableError, OperatorError, UnavailableError

REUSE_SECONDS = 1.0
"""How long a result is reused. The endpoint has no rate limit, so each request would otherwise need
a query.
"""

TIMEOUT_SECONDS = 3.0


class ReadinessCheck:
    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._reason: str | None = None

    async def check(self) -> None:
        """Raise `UnavailableError` with the reason if the service can't answer requests."""
        async with self._lock:
            if monotonic() - self._checked_at > REUSE_SECONDS:
                self._reason = await self._find_reason()
                self._checked_at = monotonic()
        if self._reason:
            raise UnavailableError(self._reason)

    async def _find_reason(self) -> str | None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await check_migrated(self._pool, accept_later=True)
        except OperatorError as error:
            return error.detail if isinstance(error, DatabaseUnavailableError) else str(error)
        except TimeoutError:
            return "The database takes too long to answer."
        return None
