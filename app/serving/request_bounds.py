"""Bounds of a request, and the errors of requests that exceed them or are not valid."""

import re
from itertools import chain
from secrets import token_hex
from typing import NamedTuple

from app.api.headers import DEFAULT_HEADERS, FIXED_HEADERS, Headers, lines
from app.api.problem_details import problem
from app.logs import request_id
from app.serving.response import STATUS_LINES

MAX_TARGET_BYTES = 24 * 1024
"""Maximum length of a path with its query."""

MAX_HEADERS_BYTES = 16 * 1024
"""Maximum length of all headers of a request together."""

MAX_HEADERS = 100
"""Maximum number of headers of a request."""

MAX_BODY_BYTES = 16 * 1024
"""Maximum length of a body. Bodies are ignored, but some clients and proxies send a small one."""

PIECE_BYTES = 2 * 1024
"""Maximum number of bytes that are parsed before the bounds are checked."""

MAX_INCOMPLETE_HEAD_BYTES = MAX_TARGET_BYTES + MAX_HEADERS_BYTES + PIECE_BYTES
"""Maximum length of an incomplete head. It allows for one piece more than a head has, because the
first piece may begin with the end of the previous request.
"""


class Refusal(NamedTuple):
    """An error that ends a connection."""

    status: int
    detail: str

    def render(self, headers: Headers) -> bytes:
        """Return the response, with these headers besides its own, as bytes on the wire."""
        token = request_id.set(token_hex(8))
        answer = problem(self.status, self.detail, headers=FIXED_HEADERS | DEFAULT_HEADERS)
        answer.headers.update({"X-Request-ID": request_id.get(), "Connection": "close"})
        request_id.reset(token)
        head = STATUS_LINES[self.status] + lines([*answer.raw_headers, *headers])
        return b"".join((head, b"\r\n", answer.body))


LONG_TARGET = Refusal(414, f"A path with its query can have at most {MAX_TARGET_BYTES} bytes.")
LONG_HEADERS = Refusal(
    431, f"A request can have at most {MAX_HEADERS} headers, of {MAX_HEADERS_BYTES} bytes together."
)
LONG_BODY = Refusal(
    413, f"A body can have at most {MAX_BODY_BYTES} bytes. No request here needs a body."
)
WRONG_VERSION = Refusal(400, "The version of HTTP should be 1.1 or 1.0.")
WRONG_HOST = Refusal(400, "A request should have one Host header, with the name of a host.")
WRONG_ENCODING = Refusal(501, "The only Transfer-Encoding that is accepted is chunked.")

_LINE_BREAKS = re.compile(rb"[\r\n]+")
_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*")


def end_of_piece(data: bytes, start: int, body_bytes_left: int | None) -> int:
    """Return the end of the next piece to parse. No piece extends beyond the end of a request.

    `body_bytes_left` is None for heads and chunked bodies.
    """
    end = start + PIECE_BYTES
    if body_bytes_left is not None:
        return min(end, start + body_bytes_left)
    # Heads and chunked bodies end with a blank line, which may have begun in the piece before.
    line_breaks = _LINE_BREAKS.match(data, start, end)
    if line_breaks:
        return line_breaks.end()
    blank_line = data.find(b"\r\n\r\n", start, end)
    return end if blank_line < 0 else blank_line + 4


def find_long_head(url: bytes, headers: Headers, received_bytes: int) -> Refusal | None:
    """Return the reason to refuse an incomplete head. `received_bytes` excludes its first piece."""
    if len(url) > MAX_TARGET_BYTES:
        return LONG_TARGET
    is_long = len(headers) > MAX_HEADERS or received_bytes > MAX_INCOMPLETE_HEAD_BYTES - PIECE_BYTES
    return LONG_HEADERS if is_long else None


def find_long_body(received_bytes: int, trailers: int) -> Refusal | None:
    """Return the reason to refuse an incomplete body. `trailers` counts those of its last piece."""
    if trailers > MAX_HEADERS:
        return LONG_HEADERS
    # Leave some room for the framing of chunks.
    return LONG_BODY if received_bytes > MAX_BODY_BYTES + PIECE_BYTES else None


def find_refusal(url: bytes, headers: Headers, received_bytes: int, version: str) -> Refusal | None:
    """Return the reason to refuse a request with this head.

    `received_bytes` is the length of the head without its first piece, and 0 if it has only one.
    """
    long = find_long_head(url, headers, received_bytes)
    # A head of a single piece can't exceed the bound.
    if long is None and received_bytes and sum(map(len, chain(*headers))) > MAX_HEADERS_BYTES:
        long = LONG_HEADERS
    if long:
        return long
    if version not in ("1.1", "1.0"):
        return WRONG_VERSION
    by_name = dict(headers)
    host = by_name.get(b"host", b"" if version == "1.0" else None)
    are_repeated = len(by_name) < len(headers)
    if (
        host is None
        or not _HOST.fullmatch(host)
        or (are_repeated and _is_repeated(b"host", headers))
    ):
        return WRONG_HOST
    # The parser rejects a repeated Content-Length, and one beside a Transfer-Encoding.
    length = by_name.get(b"content-length")
    if length is not None and int(length) > MAX_BODY_BYTES:
        return LONG_BODY
    encoding = by_name.get(b"transfer-encoding")
    if encoding is not None and (
        encoding.lower() != b"chunked"
        or version == "1.0"
        or _is_repeated(b"transfer-encoding", headers)
    ):
        return WRONG_ENCODING
    return None


def _is_repeated(name: bytes, headers: Headers) -> bool:
    return sum(given == name for given, _ in headers) > 1
