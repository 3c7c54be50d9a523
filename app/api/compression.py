"""How bodies are compressed."""

import gzip
from collections.abc import Callable
from functools import lru_cache, partial

import brotli
import zstandard

_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.compress,
    "br": partial(brotli.compress, quality=4),
    "gzip": partial(gzip.compress, compresslevel=5, mtime=0),
}
"""By the name of the encoding, the preferred one first."""

COMPRESSED_FROM_BYTES = 500
"""Less would not save a packet."""


def compressed(body: bytes, encoding: str) -> bytes:
    """`encoding` is one that `preferred_encoding` returns, and not empty."""
    # zstandard leaves room behind what it returns, as much as the body might have taken.
    return bytes(memoryview(_COMPRESSORS[encoding](body)))


@lru_cache(maxsize=256)
def preferred_encoding(accept_encoding: bytes) -> str:
    """The encoding that the header likes best, ours of several; empty when it likes none."""
    qualities: dict[str, float] = {}
    for coding in accept_encoding.decode("latin-1").lower().split(","):
        name, _, parameter = coding.partition(";")
        try:
            quality = float(parameter.partition(";")[0].strip().removeprefix("q=") or 1)
        except ValueError:
            quality = 0
        qualities[name.strip()] = quality
    others = qualities.pop("*", 0.0)
    best = max(_COMPRESSORS, key=lambda name: qualities.get(name, others))
    liked = qualities.get(best, others)
    return best if liked > 0 and liked >= qualities.get("identity", 0.0) else ""
