"""Rate limits in words."""

from limits import RateLimitItem

LIMITED_PREFIX = "/api/"
"""Beginning of the paths that are limited, including those that lead nowhere."""


def in_words(limit: RateLimitItem) -> str:
    """Return a limit as a text such as "300 requests per 5 minutes"."""
    period = limit.GRANULARITY.name
    if limit.multiples > 1:
        period = f"{limit.multiples} {period}s"
    return f"{limit.amount} requests per {period}"
