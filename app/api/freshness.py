"""Knows what is published, and how long an answer can be kept.

Each process watches the database for itself: a publish wakes it within moments, and a check every
few seconds finds what it did not hear of. So no process answers with what was published before for
longer than `STALE_AFTER_SECONDS`, as long as it reaches the database; and when it does not, it says
so in its answers' `Age`.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from time import time

from app.api.fixed_headers import Headers
from app.db.publication import publication_listener
from app.downloads import Publication
from app.errors import DatabaseUnavailableError
from app.metrics import PublishedData

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
"""Between two looks at the database when nothing is announced."""

RECONNECT_SECONDS = 1.0

STALE_AFTER_SECONDS = 15
"""More than a check, its timeout and a new connection take together."""

DUE_MAX_AGE_SECONDS = 60
"""While a new day may come any minute."""

LONGEST_MAX_AGE_SECONDS = 24 * 3600

STALE_WHILE_REVALIDATE_SECONDS = 300
"""A cache in front may answer with what it has while it asks for the new day."""

STALE_IF_ERROR_SECONDS = 24 * 3600
"""An old answer is better than none: figures change once a day."""


class Freshness:
    """`due_at` tells for the latest published day when the one after it is due."""

    def __init__(
        self, database_url: str, retention_days: int, due_at: Callable[[date], datetime]
    ) -> None:
        self._database_url = database_url
        self._retention_days = retention_days
        self._due_at = due_at
        self._due = 0.0
        self._confirmed = 0.0
        self._has_looked = asyncio.Event()
        self.publication: Publication | None = None
        """None as well until the database was first asked."""

    async def watch(self) -> None:
        """Keep `publication` right until cancelled."""
        away = False
        while True:
            try:
                async with publication_listener(
                    self._database_url, self._retention_days
                ) as listener:
                    while True:
                        self.confirm(await listener.current())
                        self._has_looked.set()
                        if away:
                            log.info("the database is back")
                            away = False
                        await listener.wait(CHECK_SECONDS)
            except DatabaseUnavailableError as error:
                if not away:
                    log.warning("answers may grow stale: %s", error)
                    away = True
            except Exception:
                log.exception("answers may grow stale")
            self._has_looked.set()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def has_looked(self) -> None:
        """Wait until the database was asked once, whatever came of it."""
        await self._has_looked.wait()

    def confirm(self, publication: Publication | None) -> None:
        """Take note that this is published now."""
        if publication != self.publication:
            self.publication = publication
            self._due = self._due_at(publication.latest_day).timestamp() if publication else 0.0
        self._confirmed = time()

    def as_of(self) -> Headers:
        """On every answer: the latest published day, as soon as one is known."""
        if self.publication is None:
            return []
        return [(b"x-data-as-of", self.publication.latest_day.isoformat().encode())]

    def figures(self) -> PublishedData:
        """Of what is published, for the metrics."""
        publication = self.publication
        if publication is None:
            return PublishedData(math.nan, math.nan, math.nan, math.nan)
        began = datetime.combine(publication.latest_day, datetime.min.time(), UTC)
        return PublishedData(
            age_days=(time() - began.timestamp()) / 86400 - 1,
            missing_days=self._retention_days - len(publication.days),
            held_days=publication.held_days,
            suspect_days=publication.suspect_days,
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`Cache-Control`; and `Age`, beyond its `max-age`, while the database can't confirm that
        nothing newer is published.
        """
        now = time()
        unconfirmed = int(now - self._confirmed)
        if unconfirmed > STALE_AFTER_SECONDS:
            return [
                (b"cache-control", _cache_control(STALE_AFTER_SECONDS)),
                (b"age", b"%d" % unconfirmed),
            ]
        left = int(self._due - now)
        left = max(left, DUE_MAX_AGE_SECONDS)
        return [(b"cache-control", _cache_control(min(left, LONGEST_MAX_AGE_SECONDS)))]


def _cache_control(max_age_seconds: int) -> bytes:
    return b"public, max-age=%d, stale-while-revalidate=%d, stale-if-error=%d" % (
        max_age_seconds,
        STALE_WHILE_REVALIDATE_SECONDS,
        STALE_IF_ERROR_SECONDS,
    )
