"""A response, and the headers that every response has."""

from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import Response as StarletteResponse

from app.api.headers import DEFAULTS, Headers, completed, lines
from app.domain.clock import Clock
from app.domain.downloads import Publication
from app.serving.freshness import Freshness
from app.serving.request import IncomingRequest

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response, without the headers that every response has."""

    status: int
    headers: Headers
    body: bytes = b""
    publication: Publication | None = None
    """Publication that the body was computed from. None for other bodies."""

    header_lines: bytes | None = None
    """The headers as bytes on the wire, if they are known already."""

    @classmethod
    def of(cls, response: StarletteResponse) -> "Response":
        return cls(response.status_code, response.raw_headers, bytes(response.body))


class ResponseHeaders:
    """Completes the headers of responses."""

    def __init__(self, freshness: Freshness, clock: Clock) -> None:
        self._freshness = freshness
        self._clock = clock
        self._shared_for: tuple[object, ...] = ()
        self._shared: tuple[Headers, bytes] = [], b""

    def of(self, request: IncomingRequest, response: Response) -> Headers:
        """Return all headers of a response."""
        if response.publication is None:
            return self.complete(request, response.headers)
        shared, _ = self._shared_headers(response.publication, [])
        return self._for_client(request, [*response.headers, *shared, *self._own(request)])

    def head(self, request: IncomingRequest, response: Response, server_headers: Headers) -> bytes:
        """Return status line and headers of a response as bytes on the wire."""
        if response.publication:
            given = response.header_lines or lines(response.headers)
            _, shared = self._shared_headers(response.publication, server_headers)
            if request.has_key:
                shared = shared.replace(b"cache-control: public", b"cache-control: private")
            head = given + shared + lines(self._own(request))
        else:
            head = lines([*server_headers, *self.of(request, response)])
        return b"".join((STATUS_LINES[response.status], head, b"\r\n"))

    def complete(self, request: IncomingRequest, headers: Headers) -> Headers:
        """Return all headers of a response that has no publication."""
        day = self._freshness.as_of()
        own = self._own(request)
        all_headers = completed([*headers, *own], [*DEFAULTS, *day], request.path)
        return self._for_client(request, all_headers)

    @staticmethod
    def _for_client(request: IncomingRequest, headers: Headers) -> Headers:
        """Forbid shared caches to store a response with the limits of a key."""
        if not request.has_key:
            return headers
        return [
            (name, value.replace(b"public", b"private") if name == b"cache-control" else value)
            for name, value in headers
        ]

    def _shared_headers(
        self, publication: Publication, server_headers: Headers
    ) -> tuple[Headers, bytes]:
        """Return the headers that all responses of a publication share for one second."""
        now = self._clock()
        key = (
            publication,
            self._freshness.publication,
            self._freshness.age_seconds,
            server_headers,
            int(now.timestamp()),
        )
        if key != self._shared_for:
            headers = completed(self._freshness.headers(publication, now))
            self._shared_for = key
            self._shared = headers, lines([*server_headers, *headers])
        return self._shared

    def _own(self, request: IncomingRequest) -> Headers:
        """Return the headers that depend on the request."""
        limits = request.limit_state.headers(self._clock()) if request.limit_state else []
        return [(b"x-request-id", request.id.encode()), *limits]
