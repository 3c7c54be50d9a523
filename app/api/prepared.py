"""Content that does not depend on the publication: pages, assets, and lists of files."""

import asyncio
from collections.abc import Callable, Mapping
from hashlib import sha256
from threading import Lock
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from app.api.negotiation import COMPRESSED_FROM_BYTES, compressed, matches_tag, preferred_encoding


class Body(NamedTuple):
    content: bytes
    tag: str
    encoding: str


class PreparedContent:
    """Content that the first request creates, and that is compressed once per encoding."""

    def __init__(
        self, create: Callable[[], bytes], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._create = create
        self._media_type = media_type
        self._headers = headers or {}
        self._bodies: dict[str, Body] = {}
        self._lock = Lock()

    async def respond(self, request: Request) -> Response:
        """Return the content in the encoding that the client prefers, or a 304."""
        accepted = ",".join(request.headers.getlist("accept-encoding"))
        encoding = preferred_encoding(accepted.encode())
        body = self._bodies.get(encoding)
        if body is None:
            body = await asyncio.to_thread(self._prepare, encoding)
        headers = {**self._headers, "ETag": body.tag}
        if matches_tag(request, body.tag):
            return Response(status_code=304, headers={**headers, "Vary": "Accept-Encoding"})
        if body.encoding:
            # The compressing middleware adds `Vary` to other bodies.
            headers |= {"Content-Encoding": body.encoding, "Vary": "Accept-Encoding"}
        return Response(body.content, headers=headers, media_type=self._media_type)

    def _prepare(self, encoding: str) -> Body:
        """Create and compress the content. This may take a second, so it runs in a thread."""
        with self._lock:
            if encoding in self._bodies:
                return self._bodies[encoding]
            plain = self._bodies.get("") or _tagged(self._create())
            body = plain
            if encoding and len(plain.content) >= COMPRESSED_FROM_BYTES:
                body = _tagged(compressed(plain.content, encoding), encoding)
            self._bodies |= {"": plain, encoding: body}
            return body


def _tagged(content: bytes, encoding: str = "") -> Body:
    return Body(content, f'"{sha256(content).hexdigest()[:32]}"', encoding)
