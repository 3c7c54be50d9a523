"""How bodies are compressed."""

import gzip
from collections.abc import Callable
from functools import partial

import brotli
import zstandard

_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.compress,
    "br": partial(brotli.compress, quality=4),
    "gzip": partial(gzip.compress, compresslevel=5, mtime=0),
}
"""By the name of the encoding, the preferred one first."""

ENCODINGS = tuple(_COMPRESSORS)

COMPRESSED_FROM_BYTES = 500
"""Less would not save a packet."""


def compressed(body: bytes, encoding: str) -> bytes:
    """`encoding` is one that `preferred_encoding` returns, and not empty."""
    # zstandard leaves room behind what it returns, as much as the body might have taken.
    return bytes(memoryview(_COMPRESSORS[encoding](body)))
