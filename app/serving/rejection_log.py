"""The log lines of rejected requests and closed connections."""

import logging
from asyncio import get_running_loop
from collections import Counter

from app.serving.proxies import client_key

log = logging.getLogger(__name__)

LOGGED_REJECTIONS = 10
"""Number of rejections of a client that are logged before they are only counted."""

SUMMARY_SECONDS = 60.0
"""How long rejections are counted before a summary is logged, and then logged anew."""

MAX_CLIENTS = 100
"""Maximum number of clients that are told apart. All others count as one."""


class RejectionLog:
    """Logs the first rejections of each client, and then a summary every minute.

    Otherwise a client that ignores its rejections could fill the disk.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def admits(self, client: str) -> bool:
        """Count a rejection of the client. Return True if it should be logged."""
        key = client_key(client)
        if not self._counts:
            get_running_loop().call_later(SUMMARY_SECONDS, self.summarise)
        elif key not in self._counts and len(self._counts) >= MAX_CLIENTS:
            key = "other clients"
        self._counts[key] += 1
        return self._counts[key] <= LOGGED_REJECTIONS

    def log(self, client: str, event: str) -> None:
        if self.admits(client):
            log.info("%s: %s", client, event)

    def summarise(self) -> None:
        for client, count in self._counts.items():
            if count > LOGGED_REJECTIONS:
                log.info("%s: %d more rejections", client, count - LOGGED_REJECTIONS)
        self._counts.clear()
