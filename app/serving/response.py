"""A response, and the headers that every response has."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from starlette.responses import Response as StarletteResponse

from app.api.headers import DEFAULTS, Headers, completed, from_lines, lines
from app.domain.clock import Clock
from app.domain.downloads import Publication
from app.serving.publication_watch import PublicationWatch
from app.serving.request import IncomingRequest

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}


@dataclass(slots=True)
class Response:
    """A whole response, without the headers that every response has."""

    status: int
    header_lines: bytes
    """The headers as bytes on the wire. As a list they would take four times the memory."""

    body: bytes = b""
    publication: Publication | None = None
    """Publication that the body was computed from. None for other bodies."""

    @classmethod
    def of(cls, response: StarletteResponse) -> "Response":
        return cls(response.status_code, lines(response.raw_headers), bytes(response.body))


class ResponseHeaders:
    """Adds the headers that every response has."""

    def __init__(self, publication_watch: PublicationWatch, clock: Clock) -> None:
        self._publication_watch = publication_watch
        self._clock = clock
        self._shared_key: tuple[object, ...] = ()
        self._shared = b""

    def of(
        self,
        request: IncomingRequest,
        response: Response,
        server_headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> bytes:
        """Return all headers of a response as bytes on the wire."""
        if response.publication is None:
            headers = [*server_headers, *from_lines(response.header_lines)]
            return lines(self.complete(request, headers))
        now = self._clock()
        shared = self._shared_lines(response.publication, server_headers, now)
        if request.has_key:
            shared = _private(shared)
        return response.header_lines + shared + _own_lines(request, now)

    def complete(self, request: IncomingRequest, headers: Headers) -> Headers:
        """Return all headers of a response that has no publication."""
        own = from_lines(_own_lines(request, self._clock()))
        defaults = [*DEFAULTS, *self._publication_watch.as_of()]
        all_headers = completed([*headers, *own], defaults, request.path)
        return from_lines(_private(lines(all_headers))) if request.has_key else all_headers

    def _shared_lines(
        self,
        publication: Publication,
        server_headers: Sequence[tuple[bytes, bytes]],
        now: datetime,
    ) -> bytes:
        """Return the headers that all responses of a publication share for one second."""
        publication_watch = self._publication_watch
        second = int(now.timestamp())
        key = (
            publication,
            publication_watch.publication,
            publication_watch.age_seconds,
            server_headers,
            second,
        )
        if key != self._shared_key:
            headers = completed(publication_watch.headers(publication, now))
            self._shared_key = key
            self._shared = lines([*server_headers, *headers])
        return self._shared


def _private(header_lines: bytes) -> bytes:
    """Return the headers with `private`. They contain a key's limits, so no shared cache may store
    the response.
    """
    return header_lines.replace(b"cache-control: public", b"cache-control: private")


def _own_lines(request: IncomingRequest, now: datetime) -> bytes:
    """Return the headers that depend on the request."""
    own = b"x-request-id: %b\r\n" % request.id.encode()
    return own + request.limit_state.header_lines(now) if request.limit_state else own
