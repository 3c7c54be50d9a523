"""Content negotiation by `Accept` and `Accept-Encoding`."""

from functools import lru_cache

from app.api.compression import ENCODINGS


@lru_cache(maxsize=256)
def accepted_format(accept: bytes) -> str | None:
    """The format that the header likes better than JSON; None when it likes none better."""
    qualities: dict[str, float] = {}
    for accepted in accept.decode("latin-1").lower().split(","):
        media_type, *parameters = (part.strip() for part in accepted.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            qualities[media_type] = float(quality)
        except ValueError:
            qualities[media_type] = 0
    others = qualities.get("*/*", 0.0)
    csv = qualities.get("text/csv", qualities.get("text/*", others))
    json = qualities.get("application/json", qualities.get("application/*", others))
    # A wildcard likes both as much: what is said of CSV by its name decides.
    named = "text/csv" in qualities and "application/json" not in qualities
    return "csv" if csv > json or (named and csv == json and csv > 0) else None


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
    best = max(ENCODINGS, key=lambda name: qualities.get(name, others))
    liked = qualities.get(best, others)
    return best if liked > 0 and liked >= qualities.get("identity", 0.0) else ""
