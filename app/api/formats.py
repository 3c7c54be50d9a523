"""The formats of a time series: JSON, or CSV for those who ask for it."""

from functools import lru_cache

JSON = b"application/json"
CSV = b"text/csv; charset=utf-8"

FORMAT = "format"
"""The argument that takes the place of the Accept header."""

FORMATS = ("json", "csv")


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
