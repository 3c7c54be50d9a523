"""The current publication, and how long its responses may be cached.

Each process listens for announcements of publishes, and checks the database every few seconds in
case an announcement was lost. So a process that reaches the database uses an old publication for
`STALE_AFTER_SECONDS` at most. The responses of a process that does not reach it have an `Age`.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from time import monotonic

from app.api.headers import DATA_AS_OF, DATA_SOURCE, Headers, raw_headers
from app.db.publication import publication_listener
from app.domain.clock import Clock
from app.domain.days import end_of
from app.domain.downloads import Publication
from app.errors import DatabaseUnavailableError
from app.metrics import PublicationMetrics

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
"""Time between two checks when nothing is announced."""

RECONNECT_SECONDS = 1.0

STALE_AFTER_SECONDS = 15
"""Time without a successful check after which the publication counts as stale. It leaves time for a
check that times out, and for another one on a new connection.
"""

SHORT_MAX_AGE_SECONDS = 60
"""`max-age` while the published data may change any minute."""

MORE_PUBLISHES_WITHIN_SECONDS = 900
"""How long after a publish another one is likely: a backfill publishes day after day."""

LONGEST_MAX_AGE_SECONDS = 24 * 3600

STALE_WHILE_REVALIDATE_SECONDS = 300
"""How long a cache in front may serve its copy while it fetches the new response."""

STALE_IF_ERROR_SECONDS = 24 * 3600
"""How long a cache in front may serve its copy if this service fails. Figures change once a day."""


class PublicationWatch:
    """The current publication, and the headers that depend on it.

    `due_at` takes the latest published day, and returns the time at which the next day is due. The
    ingest checks each day again when `recheck_after` has passed since its end.
    """

    def __init__(
        self,
        database_url: str,
        retention_days: int,
        due_at: Callable[[date], datetime],
        clock: Clock,
        recheck_after: timedelta = timedelta(0),
    ) -> None:
        self._database_url = database_url
        self._retention_days = retention_days
        self._due_at = lru_cache(maxsize=2)(due_at)
        self._clock = clock
        self._recheck_after = recheck_after
        self._confirmed_at = -math.inf
        """Monotonic time of the last confirmation. Setting the wall clock does not affect it."""

        self.first_check_done = asyncio.Event()
        """Event that is set after the first query to the database, also if that failed."""

        self.publication: Publication | None = None
        """Current publication, or None if nothing is published or the first query has not ended."""

    async def watch(self) -> None:
        """Update `publication` until cancelled.

        During an outage, each kind of failure is logged once, and so is the end of the outage.
        """
        failures: set[type[Exception]] = set()
        while True:
            try:
                async with publication_listener(
                    self._database_url, self._retention_days
                ) as listener:
                    while True:
                        self.confirm(await listener.current())
                        self.first_check_done.set()
                        if failures:
                            log.info("the database is back")
                            failures.clear()
                        await listener.wait(CHECK_SECONDS)
            except Exception as error:
                if type(error) not in failures:
                    failures.add(type(error))
                    has_traceback = not isinstance(error, DatabaseUnavailableError)
                    log.warning("responses may become stale: %s", error, exc_info=has_traceback)
            self.first_check_done.set()
            await asyncio.sleep(RECONNECT_SECONDS)

    def confirm(self, publication: Publication | None) -> None:
        """Record that the database has confirmed this publication as current."""
        if publication != self.publication:
            self.publication = publication
        self._confirmed_at = monotonic()

    def as_of(self) -> Headers:
        """Return the headers with the latest day, for responses that no publication produced."""
        return as_of(self.publication) if self.publication else []

    def publication_metrics(self) -> PublicationMetrics:
        """Return figures of the current publication for the metrics."""
        publication = self.publication
        if publication is None:
            return PublicationMetrics(math.nan, math.nan, math.nan, math.nan)
        ended_on = publication.latest_day + timedelta(days=1)
        ended_at = datetime.combine(ended_on, datetime.min.time(), UTC)
        return PublicationMetrics(
            data_age_seconds=(self._clock() - ended_at).total_seconds(),
            missing_dates=publication.missing_days,
            held_dates=publication.held_days,
            suspect_dates=publication.suspect_days,
        )

    @property
    def age_seconds(self) -> int:
        """Seconds since the publication was confirmed, or 0 while it counts as current."""
        unconfirmed = monotonic() - self._confirmed_at
        return int(min(unconfirmed, 2**31)) if unconfirmed > STALE_AFTER_SECONDS else 0

    def headers(self, publication: Publication, now: datetime) -> Headers:
        """Return the headers that describe the publication that a response was computed from.

        While the database can't confirm that nothing newer is published, `Age` is at least
        `max-age`. `Last-Modified` must not be later than the response (RFC 9110), so it is omitted
        if `published_at` is in the future. That happens after a burst of publishes, because
        `announce` makes each one at least a second later than the one before it.
        """
        headers = as_of(publication)
        if publication.published_at <= now:
            headers.append((b"last-modified", _http_date(publication.published_at)))
        age = self.age_seconds
        if age:
            headers.append((b"cache-control", _cache_control(STALE_AFTER_SECONDS)))
            headers.append((b"age", b"%d" % age))
        else:
            headers.append((b"cache-control", _cache_control(self._max_age(publication, now))))
        return headers

    def _max_age(self, publication: Publication, now: datetime) -> int:
        """Return the seconds until the ingest reads a new day, or checks a published one again."""
        is_current = self.publication and self.publication.version == publication.version
        since_publish = (now - publication.published_at).total_seconds()
        may_continue = since_publish < MORE_PUBLISHES_WITHIN_SECONDS
        if may_continue or not (is_current and publication.is_complete):
            return SHORT_MAX_AGE_SECONDS
        since = now - timedelta(seconds=MORE_PUBLISHES_WITHIN_SECONDS)
        rechecks = (end_of(day) + self._recheck_after for day in publication.days)
        next_recheck = next((moment for moment in rechecks if moment > since), None)
        due_at = self._due_at(publication.latest_day)
        left = int((min(due_at, next_recheck or due_at) - now).total_seconds())
        return min(max(left, SHORT_MAX_AGE_SECONDS), LONGEST_MAX_AGE_SECONDS)


def as_of(publication: Publication) -> Headers:
    """Return the headers with the latest day, and with the source if it is the sample."""
    headers = {DATA_AS_OF: publication.latest_day.isoformat()}
    return raw_headers(headers | ({DATA_SOURCE: "sample"} if publication.is_sample else {}))


@lru_cache(maxsize=8)
def _http_date(moment: datetime) -> bytes:
    return format_datetime(moment.astimezone(UTC), usegmt=True).encode()


def _cache_control(max_age_seconds: int) -> bytes:
    return b"public, max-age=%d, stale-while-revalidate=%d, stale-if-error=%d" % (
        max_age_seconds,
        STALE_WHILE_REVALIDATE_SECONDS,
        STALE_IF_ERROR_SECONDS,
    )
