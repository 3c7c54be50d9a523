"""Content negotiation by `Accept` and `Accept-Encoding`, and the compression of bodies."""

import gzip
import re
from collections.abc import Callable
from functools import lru_cache, partial

import brotli
import zstandard
from starlette.requests import Request

_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.compress,
    "br": partial(brotli.compress, quality=4),
    "gzip": partial(gzip.compress, compresslevel=5, mtime=0),
}
"""Compressors by content encoding, the preferred one first."""

COMPRESSED_FROM_BYTES = 500
"""Size of the smallest body that is compressed. A smaller one fits into one packet anyway."""


_QUALITY_PARAMETER = re.compile(r"q\s*=\s*(.*)")
_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)
_BYTE_RANGES = re.compile(rb"bytes=\s*(\d+-\d*|-\d+)(\s*,\s*(\d+-\d*|-\d+))*\s*", re.IGNORECASE)
_BYTE_RANGE = re.compile(rb"\s*(\d{0,18})-(\d{0,18})\s*")


def _qualities(header: bytes) -> dict[str, float]:
    """Return the quality of each value of a header. An invalid quality counts as 0."""
    qualities = {}
    for accepted in header.decode("latin-1").lower().split(","):
        value, *parameters = (part.strip() for part in accepted.split(";"))
        quality = next(filter(None, map(_QUALITY_PARAMETER.fullmatch, parameters)), None)
        given = quality[1] if quality else "1"
        qualities[value] = float(given) if _QUALITY.fullmatch(given) else 0.0
    return qualities


@lru_cache(maxsize=256)
def accepted_format(accept: bytes) -> str | None:
    """Return `csv` if the header prefers CSV to JSON, or None."""
    qualities = _qualities(accept)
    others = qualities.get("*/*", 0.0)
    csv = qualities.get("text/csv", qualities.get("text/*", others))
    json = qualities.get("application/json", qualities.get("application/*", others))
    # A wildcard gives both the same quality. Then prefer CSV if the header names only CSV.
    named = "text/csv" in qualities and "application/json" not in qualities
    return "csv" if csv > json or (named and csv == json and csv > 0) else None


@lru_cache(maxsize=256)
def preferred_encoding(accept_encoding: bytes) -> str:
    """Return the content encoding that the header prefers, or "" for an uncompressed body.

    The order of `_COMPRESSORS` decides between encodings of equal quality. The wildcard selects an
    encoding only if the client refuses an uncompressed body, because most clients that send a
    wildcard can decode few encodings, or none.
    """
    qualities = _qualities(accept_encoding)
    plain = qualities.get("identity", 0.0)
    if qualities.get("identity") == 0:
        qualities.setdefault("gzip", qualities.get("*", 0.0))
    best = max(_COMPRESSORS, key=lambda name: qualities.get(name, 0.0))
    quality = qualities.get(best, 0.0)
    return best if quality > 0 and quality >= plain else ""


def has_byte_ranges(header: bytes) -> bool:
    """Return True if a `Range` header asks for bytes. Other units are ignored (RFC 9110)."""
    return _BYTE_RANGES.fullmatch(header) is not None


def byte_range(header: bytes, size: int) -> range | None:
    """Return the positions of the bytes that a `Range` header selects, or None if the header is not
    a single valid range. The result is empty if the range is outside of the body.
    """
    match = _BYTE_RANGE.fullmatch(header.partition(b"=")[2]) if has_byte_ranges(header) else None
    if match is None:
        return None
    if not match[1]:
        return range(max(0, size - int(match[2])), size)
    first, end = int(match[1]), int(match[2]) + 1 if match[2] else size
    # A last position before the first one makes the header invalid.
    return range(first, min(end, size)) if end > first or not match[2] else None


def matches_tag(request: Request, tag: str) -> bool:
    """Return True if `If-None-Match` allows a 304 for a response with this tag."""
    given = ",".join(request.headers.getlist("if-none-match"))
    return any(one.strip().removeprefix("W/") in {tag, "*"} for one in given.split(","))


def compressed(body: bytes, encoding: str) -> bytes:
    """Compress a body by an encoding that `preferred_encoding` returned."""
    # Copy the result, because zstandard reserves memory for the worst case.
    return bytes(memoryview(_COMPRESSORS[encoding](body)))
