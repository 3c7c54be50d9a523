"""A request on its way through the dispatcher."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from secrets import token_hex
from time import perf_counter
from urllib.parse import unquote

from app.api.endpoints import ParsedRequest
from app.api.headers import Headers
from app.api.limit_rules import ARGUMENTS_PER_REQUEST
from app.api.negotiation import accepted_format, has_byte_ranges, preferred_encoding
from app.serving.limit_storage import Counters
from app.serving.rate_limits import LimitedClient, RateLimitState

NO_ROUTE = "none"
"""Route of a request that has no endpoint, or that was refused before its endpoint was found."""

NOT_LOOKED_UP = "none"
"""Value of `IncomingRequest.cache` for a request that was not looked up or that was refused."""

CANCELLED = 499
"""Status logged for a request that got no response. nginx uses the same one."""

_GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

_ids = count()
_ID_PREFIX = token_hex(4)
"""Prefix of the request ids of this process. A counter follows."""


class IncomingRequest:
    """A request, with the results of the dispatcher's steps and figures of the response."""

    prefix = ""
    """Prefix that a proxy has removed from the path, or empty."""

    limited_client: LimitedClient | None = None
    """The client for which the request counts. None before the dispatcher has identified it."""

    counters: Counters = ()
    """Counters that the request increments."""

    is_counted = False
    limit_state: RateLimitState | None = None
    """State of the client's rate limit. None before the request is counted, and without a limit."""

    parsed: ParsedRequest | None = None
    route = NO_ROUTE
    """Path template, for metrics."""

    cache = NOT_LOOKED_UP
    """Result of the lookup in the response cache, for metrics."""

    status = 0
    """Status that was sent, or 0."""

    size = 0
    """Bytes of the body that were sent."""

    def __init__(self, method: str, target: bytes, headers: Headers, client: str) -> None:
        """Create a request from its target, which is path and query without a fragment."""
        self.began = perf_counter()
        self.method = method
        self.target = target
        self.raw_path, _, self.query = target.partition(b"?")
        path = self.raw_path.decode("latin-1")
        self.path = unquote(path) if "%" in path else path
        self.headers = given = _joined(headers)
        self.client = client
        """Address of the client, or empty."""

        self.accepted_format = accepted_format(given.get(b"accept", b""))
        self.encoding = preferred_encoding(given.get(b"accept-encoding", b""))
        given_id = given.get(b"x-request-id")
        if given_id is not None and _GIVEN_ID.fullmatch(given_id):
            self.id = given_id.decode()
        else:
            self.id = f"{_ID_PREFIX}{next(_ids) & 0xFFFFFFFF:08x}"

    @property
    def cost(self) -> int:
        """How often the request counts for rate limits."""
        separators = map(self.query.count, (b"&", b",", b"%2C", b"%2c"))
        return 1 + sum(separators) // ARGUMENTS_PER_REQUEST

    @property
    def is_conditional(self) -> bool:
        return b"if-none-match" in self.headers or b"if-modified-since" in self.headers

    @property
    def has_key(self) -> bool:
        """True if the response is for the owner of a key, or for a client with a wrong key."""
        return self.limited_client is not None and self.limited_client.has_key

    @property
    def is_preflight(self) -> bool:
        """True if a browser asks for permission to send another request."""
        return self.method == "OPTIONS" and b"access-control-request-method" in self.headers

    def negotiated_headers(self, headers: Headers) -> Headers:
        """Return the headers for FastAPI: with the encoding that was chosen, if any, and without a
        `Range` of unknown units.
        """
        chosen = [one for one in headers if one[0] not in (b"accept-encoding", b"range")]
        if self.encoding:
            chosen.append((b"accept-encoding", self.encoding.encode()))
        if has_byte_ranges(self.headers.get(b"range", b"")):
            chosen.append((b"range", self.headers[b"range"]))
        return chosen

    def matching_tag(self, tags: tuple[bytes, ...]) -> bytes | None:
        """Return the tag of `If-None-Match` that is one of `tags`, or None. It may be weak, because
        proxies that compress a response make its tag weak.
        """
        given = self.headers.get(b"if-none-match")
        if not given or given in tags:
            return given or None
        opaque = (tag.strip().removeprefix(b"W/") for tag in given.split(b","))
        return next((tag for tag in opaque if tag in tags), None)

    def revalidated_tag(self, tags: tuple[bytes, ...], published_at: datetime) -> bytes | None:
        """Return the tag for a 304 if the client has the response already, else None. `tags[0]` is
        the response's own tag.

        A tag takes precedence over a date. The date has to be equal: a publish becomes visible
        after `published_at`, so a later date does not prove that the client received it.
        """
        given = self.headers.get(b"if-none-match")
        if given:
            return tags[0] if given.strip() == b"*" else self.matching_tag(tags)
        modified_since = self.headers.get(b"if-modified-since")
        if not modified_since:
            return None
        try:
            since = parsedate_to_datetime(modified_since.decode("latin-1"))
        except (ValueError, OverflowError):
            return None
        if since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        return tags[0] if published_at.replace(microsecond=0) == since else None


def _joined(headers: Headers) -> Mapping[bytes, bytes]:
    """Return headers by name. The values of a repeated header are joined with commas (RFC 9110)."""
    by_name = dict(headers)
    if len(by_name) != len(headers):
        by_name = {}
        for name, value in headers:
            by_name[name] = b"%b,%b" % (by_name[name], value) if name in by_name else value
    return by_name
