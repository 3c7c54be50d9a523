"""Determines which paths are limited, and describes rate limits in words."""

from limits import RateLimitItem

ASSETS_PATH = "/assets/"
"""Prefix of the paths of the documentation page's assets."""

BADGES_PATH = "/api/badges/"
"""Prefix of the paths of badges. A badge from the response cache does not count."""

ARGUMENTS_PER_REQUEST = 10
"""Number of query arguments, or of names separated by commas, that count as one request. A request
for a hundred packages takes about as long as ten others.
"""

_UNLIMITED_PATHS = frozenset({"/health", "/ready", "/metrics"})


def is_limited(path: str) -> bool:
    """Return True if requests of the path count, whether or not the path exists.

    Paths for monitoring and the assets of the documentation page are not limited.
    """
    return path not in _UNLIMITED_PATHS and not path.startswith(ASSETS_PATH)


def in_words(limit: RateLimitItem) -> str:
    """Return a limit as a text such as "300 requests per 5 minutes"."""
    period = limit.GRANULARITY.name
    if limit.multiples > 1:
        period = f"{limit.multiples} {period}s"
    return f"{limit.amount} requests per {period}"
