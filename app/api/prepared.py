"""Content that stays the same while the process runs: pages, assets and the OpenAPI document."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock

from starlette.requests import Request
from starlette.responses import Response

from app.api.negotiation import compressed, matches_tag, preferred_encoding


@dataclass(frozen=True, slots=True)
class Body:
    content: bytes
    tag: str


class PreparedContent:
    """Content that is created once, and compressed once per encoding, at its first request."""

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
        encoding = preferred_encoding(request.headers.get("accept-encoding", "").encode())
        body = self._bodies.get(encoding)
        if body is None:
            body = await asyncio.to_thread(self._prepare, encoding)
        headers = {**self._headers, "ETag": body.tag, "Vary": "Accept-Encoding"}
        if matches_tag(request, body.tag):
            return Response(status_code=304, headers=headers)
        if encoding:
            headers["Content-Encoding"] = encoding
        return Response(body.content, headers=headers, media_type=self._media_type)

    def _prepare(self, encoding: str) -> Body:
        """Create and compress the content. This may take a second, so it runs in a thread."""
        with self._lock:
            for wanted in ("", encoding):
                if wanted not in self._bodies:
                    content = (
                        compressed(self._bodies[""].content, wanted) if wanted else self._create()
                    )
                    tag = f'"{sha256(content).hexdigest()[:32]}"'
                    self._bodies[wanted] = Body(content, tag)
            return self._bodies[encoding]
