"""Rendered responses, stored until the next publish.

Only a publish changes data, so a response is valid until the next one. It is stored as it was sent,
after compression. Its `ETag` depends only on the publication and the request.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

from app.api.endpoints import ParsedRequest
from app.api.headers import Headers, from_lines, lines
from app.api.negotiation import COMPRESSED_FROM_BYTES, byte_range, compressed
from app.api.offloading import LARGE_BYTES, offloaded_if
from app.api.payloads import RenderedBody
from app.api.problem_details import problem
from app.domain.downloads import Publication
from app.metrics import RESPONSE_CACHE_BYTES
from app.serving.publication_watch import PublicationWatch
from app.serving.response import Response

ENTRY_BYTES = 1_200
"""Size of an entry besides its body: the key, the headers and the objects that contain them."""

UNBOUNDED_SHARE = 1 / 4
"""Share of the cache for requests of which a client can invent any number. A flood of them evicts
only each other.
"""

_VARY = (b"vary", b"Accept-Encoding")
_VARY_BY_FORMAT = (b"vary", b"Accept, Accept-Encoding")


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, with everything that is needed to send a part of it or a 304 instead."""

    whole: Response
    not_modified: Response
    route: str
    has_formats: bool
    tags: tuple[bytes, ...]
    """Tags with which a client may revalidate the response. The first one is the response's own."""

    def part(self, given_range: bytes, if_range: bytes | None) -> Response | None:
        """Return the requested part, a 416 if it is outside of the body, or None if the whole
        response should be sent.

        A date in `If-Range` is ignored, so that the whole response is sent.
        """
        body = self.whole.body
        positions = byte_range(given_range, len(body))
        if positions is None or (if_range is not None and if_range.strip() != self.tags[0]):
            return None
        if not positions:
            detail = f"The body has {len(body)} bytes."
            answer = problem(416, detail, headers={"Content-Range": f"bytes */{len(body)}"})
            return Response.of(answer)
        headers = from_lines(self.whole.header_lines)
        headers = [one for one in headers if one[0] != b"content-length"] + [
            (b"content-length", b"%d" % len(positions)),
            (b"content-range", b"bytes %d-%d/%d" % (positions[0], positions[-1], len(body))),
        ]
        part = body[positions.start : positions.stop]
        return Response(206, lines(headers), part, self.whole.publication)


class Tagger:
    """Computes the tags of responses.

    `rendering` identifies the rendering code and the known events. Bodies depend on these, on the
    publication and on the request.
    """

    def __init__(self, rendering: str) -> None:
        self._rendering = rendering.encode()

    def tags(self, publication: Publication, target: bytes, encoding: str) -> tuple[bytes, ...]:
        """Return the tags that a response may have. With an encoding these are two, because small
        responses are not compressed.
        """
        identity = b"\n".join([self._rendering, publication.version.encode(), target])
        digest = blake2b(identity, digest_size=12).hexdigest()
        plain = f'"{digest}"'.encode()
        return (f'"{digest}-{encoding}"'.encode(), plain) if encoding else (plain,)


def not_modified(tag: bytes, publication: Publication, *, has_formats: bool) -> Response:
    """Return a 304 response."""
    return Response(304, lines(_tag_headers(tag, has_formats=has_formats)), b"", publication)


def _tag_headers(tag: bytes, *, has_formats: bool) -> Headers:
    return [(b"etag", tag), _VARY_BY_FORMAT if has_formats else _VARY]


async def encode(
    parsed: ParsedRequest,
    rendered: RenderedBody,
    encoding: str,
    tags: tuple[bytes, ...],
    publication: Publication,
) -> StoredResponse:
    """Compress a rendered body unless it is small, and add its headers."""
    body = rendered.body
    if encoding and len(body) >= COMPRESSED_FROM_BYTES:
        body = await offloaded_if(len(body) >= LARGE_BYTES, compressed, body, encoding)
        content_encoding = [(b"content-encoding", encoding.encode())]
    else:
        # Copy the body, because orjson reserves several times as much memory as it uses.
        body = bytes(memoryview(body))
        content_encoding = []
        tags = tags[::-1]
    endpoint = parsed.endpoint
    headers = [
        (b"content-type", rendered.media_type),
        (b"content-length", b"%d" % len(body)),
        (b"accept-ranges", b"bytes"),
        *content_encoding,
        *_tag_headers(tags[0], has_formats=endpoint.has_formats),
    ]
    whole = Response(200, lines(headers), body, publication)
    unchanged = not_modified(tags[0], publication, has_formats=endpoint.has_formats)
    return StoredResponse(whole, unchanged, endpoint.path, endpoint.has_formats, tags)


class _Store:
    """Responses of a limited total size. The least recently used one is evicted first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._responses: OrderedDict[tuple[bytes, str], StoredResponse] = OrderedDict()
        self.bytes = 0

    def get(self, key: tuple[bytes, str]) -> StoredResponse | None:
        response = self._responses.get(key)
        if response:
            self._responses.move_to_end(key)
        return response

    def put(self, key: tuple[bytes, str], response: StoredResponse) -> None:
        size = _size(key, response)
        if size > self._max_bytes or key in self._responses:
            return
        self._responses[key] = response
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.bytes -= _size(*self._responses.popitem(last=False))

    def clear(self) -> None:
        self._responses.clear()
        self.bytes = 0


class ResponseCache:
    """Stored responses by canonical target and by the encoding that the client prefers.

    All spellings of a request share one entry. A canonical request is found without parsing.
    """

    def __init__(self, publication_watch: PublicationWatch, max_bytes: int) -> None:
        self._publication_watch = publication_watch
        unbounded_bytes = int(max_bytes * UNBOUNDED_SHARE)
        self._unbounded = _Store(unbounded_bytes)
        self._others = _Store(max_bytes - unbounded_bytes)
        self._current: tuple[str, datetime] | None = None
        """Version and time of the publication that the stored responses were computed from."""

    def get(self, target: bytes, encoding: str) -> StoredResponse | None:
        """Return the response to a target, computed from the current publication."""
        self._evict_old_publication()
        key = target, encoding
        return self._others.get(key) or self._unbounded.get(key)

    def put(
        self,
        publication: Publication,
        parsed: ParsedRequest,
        encoding: str,
        response: StoredResponse,
    ) -> None:
        """Store a response of a publication, if that is still current."""
        self._evict_old_publication()
        if _identity(publication) != self._current:
            return
        store = self._unbounded if parsed.has_unbounded_arguments else self._others
        store.put((parsed.target, encoding), response)
        self._report_bytes()

    def _evict_old_publication(self) -> None:
        publication = self._publication_watch.publication
        current = _identity(publication) if publication else None
        if current != self._current:
            self._current = current
            self._unbounded.clear()
            self._others.clear()
            self._report_bytes()

    def _report_bytes(self) -> None:
        RESPONSE_CACHE_BYTES.set(self._unbounded.bytes + self._others.bytes)


def _identity(publication: Publication) -> tuple[str, datetime]:
    """Return version and time: equal rows that are published again have the same version."""
    return publication.version, publication.published_at


def _size(key: tuple[bytes, str], response: StoredResponse) -> int:
    return len(key[0]) + len(response.whole.body) + ENTRY_BYTES
