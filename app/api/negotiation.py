"""Content negotiation by `Accept` and `Accept-Encoding`, and the compression of bodies."""

import gzip
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


@lru_cache(maxsize=256)
def accepted_format(accept: bytes) -> str | None:
    """Return the format that the header prefers to JSON, or None."""
    qualities: dict[str, float] = {}
    for accepted in accept.decode("latin-1").lower().split(","):
        media_type, *parameters = (part.strip() for part in accepted.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        qualities[media_type] = _quality(quality)
    others = qualities.get("*/*", 0.0)
    csv = qualities.get("text/csv", qualities.get("text/*", others))
    json = qualities.get("application/json", qualities.get("application/*", others))
    # A wildcard gives both the same quality. Then CSV is preferred if the header names it alone.
    named = "text/csv" in qualities and "application/json" not in qualities
    return "csv" if csv > json or (named and csv == json and csv > 0) else None


@lru_cache(maxsize=256)
def preferred_encoding(accept_encoding: bytes) -> str:
    """Return the content encoding that the header prefers, or an empty text for none.

    The order of `_COMPRESSORS` decides between encodings of equal quality.
    """
    qualities: dict[str, float] = {}
    for coding in accept_encoding.decode("latin-1").lower().split(","):
        name, _, parameter = coding.partition(";")
        quality = parameter.partition(";")[0].strip().removeprefix("q=")
        qualities[name.strip()] = _quality(quality or "1")
    others = qualities.pop("*", 0.0)
    best = max(_COMPRESSORS, key=lambda name: qualities.get(name, others))
    quality_of_best = qualities.get(best, others)
    is_preferred = quality_of_best > 0 and quality_of_best >= qualities.get("identity", 0.0)
    return best if is_preferred else ""


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def matches_tag(request: Request, tag: str) -> bool:
    """Return True if `If-None-Match` allows a 304 for a response with this tag."""
    given = ",".join(request.headers.getlist("if-none-match"))
    return any(one.strip().removeprefix("W/") in {tag, "*"} for one in given.split(","))


def compressed(body: bytes, encoding: str) -> bytes:
    """Compress a body by an encoding that `preferred_encoding` returned."""
    # zstandard reserves as much memory as the body might have taken. The copy releases it.
    return bytes(memoryview(_COMPRESSORS[encoding](body)))
