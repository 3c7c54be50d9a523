"""Limits on the log lines that one client can cause."""

import logging
from asyncio import get_running_loop
from collections import Counter

from app.serving.proxies import client_key

log = logging.getLogger(__name__)

SUMMARY_SECONDS = 60.0
"""Length of the period in which lines are counted. A summary is logged at its end."""


class LogLineLimit:
    """Admits the first `max_lines` lines of each client per minute, and logs how many more came.

    Without a limit, a client that ignores its rejections could fill the disk. Clients beyond
    `max_clients` count as one.
    """

    def __init__(
        self, subject: str = "rejections", max_lines: int = 10, max_clients: int = 100
    ) -> None:
        self._subject = subject
        self._max_lines = max_lines
        self._max_clients = max_clients
        self._counts: Counter[str] = Counter()

    def admits(self, client: str) -> bool:
        """Count a line of the client. Return True if it should be logged."""
        key = client_key(client)
        if not self._counts:
            get_running_loop().call_later(SUMMARY_SECONDS, self.summarise)
        elif key not in self._counts and len(self._counts) >= self._max_clients:
            key = "other clients"
        self._counts[key] += 1
        return self._counts[key] <= self._max_lines

    def log(self, client: str, event: str) -> None:
        if self.admits(client):
            log.info("%s: %s", client, event)

    def summarise(self) -> None:
        for client, count in self._counts.items():
            if count > self._max_lines:
                log.info("%s: %d more %s", client, count - self._max_lines, self._subject)
        self._counts.clear()
