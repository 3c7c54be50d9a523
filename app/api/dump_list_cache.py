"""The list of dumps in the folder that the service serves."""

import asyncio
import logging
from typing import NamedTuple

from app.api.prepared import PreparedContent
from app.dumps import listing
from app.dumps.stores.folder import DumpFolder
from app.errors import DumpsError, UnavailableError

log = logging.getLogger(__name__)

SERVED_URL = "dumps/"
"""Address of the files relative to the list. It also works behind a proxy that adds a prefix."""

CACHING = "public, max-age=60, stale-while-revalidate=300, stale-if-error=86400"
"""`Cache-Control` of the list. An export is visible within a minute. If the service fails, caches
may serve an old list for a day.
"""


def unavailable(reason: object) -> UnavailableError:
    """Log why dumps can't be read, and return the error for the client."""
    log.warning("%s", reason)
    return UnavailableError("The dumps can't be read at the moment.", retry_after_seconds=60)


class DumpList(NamedTuple):
    stat: tuple[int, ...]
    """Identity and modification time of the list's file, to detect a change."""

    dumps: listing.Dumps
    content: PreparedContent


class DumpListCache:
    """Caches the list of a folder's dumps, and reads it again when its file has changed.

    Clients download the files from `base_url`.
    """

    def __init__(self, folder: DumpFolder, base_url: str) -> None:
        self.folder = folder
        self._base_url = base_url
        self._listed: DumpList | None = None

    async def current(self) -> DumpList:
        """Return the current list. Raises `UnavailableError`."""
        try:
            # The folder may be on a network file system, which can block.
            return await asyncio.to_thread(self._current)
        except (DumpsError, OSError) as error:
            raise unavailable(error) from error

    def _current(self) -> DumpList:
        try:
            file = (self.folder.path / listing.INDEX_NAME).stat()
            stat: tuple[int, ...] = (file.st_ino, file.st_mtime_ns, file.st_size)
        except FileNotFoundError:
            stat = ()
        listed = self._listed
        if listed is None or listed.stat != stat:
            dumps = self.folder.dumps()
            body = dumps.render(self._base_url)
            content = PreparedContent(lambda: body, "application/json", {"Cache-Control": CACHING})
            listed = self._listed = DumpList(stat, dumps, content)
        return listed
