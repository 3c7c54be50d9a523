"""Answers what was answered before: conditional requests, and a cache of finished responses.

Data changes with a publish and at no other time. So an answer's `ETag` can be told from what is
published and from what was asked, without looking at the data; and a response, compressed as it
was, is good until the next publish.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import parse_qsl

from cachetools import LRUCache
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.dependencies import UnambiguousRoute
from app.api.freshness import Freshness
from app.api.problem_details import error_answer
from app.downloads import Publication
from app.errors import RequestTimeoutError
from app.metrics import RESPONSE_CACHE, RESPONSE_CACHE_BYTES
from app.package_name import normalise

PREFIX = "/api/packages/"

ENTRY_BYTES = 1200
"""Of an entry besides its body: the key, the headers, the objects that hold them."""

ENCODINGS = ("zstd", "br", "gzip")
"""That bodies are compressed with, the preferred one first."""

Headers = list[tuple[bytes, bytes]]

_VARY = (b"vary", b"Accept-Encoding")

# Begins the answer to a filter that nothing of the package matches. There is one for every text
# that an argument may have: kept, they would drive out what is worth it.
_NOTHING_MATCHES = b'{"data":[],'

_HIT = RESPONSE_CACHE.labels("hit")
_MISS = RESPONSE_CACHE.labels("miss")
_TAG_MATCH = RESPONSE_CACHE.labels("tag_match")


class Question(NamedTuple):
    """What a request asks for, however it spells that."""

    endpoint: str
    """The last part of the path."""

    package: str
    arguments: tuple[str | None, ...]
    """In the order in which the route declares them. None is left out."""


class Key(NamedTuple):
    version: str
    """Of what was published when the question came."""

    question: Question
    encoding: str
    """That the client likes best. Small bodies are not compressed all the same."""


@dataclass(frozen=True, slots=True)
class Answer:
    headers: Headers
    """Those that stay as they are until the next publish."""

    tag: bytes
    body: bytes


class HTTPCacheMiddleware:
    """Stands in front of the routes at `PREFIX`, package, and a name of their own.

    `rendering` is another one whenever the same data is rendered to other bytes. `max_bytes` bounds
    the responses that are kept, in memory; zero keeps none. `timeout_seconds` bounds the wait for
    an answer that is not kept, by whoever asks for it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        freshness: Freshness,
        routes: Iterable[BaseRoute],
        rendering: str,
        max_bytes: int,
        timeout_seconds: float,
    ) -> None:
        self._app = app
        self._freshness = freshness
        self._rendering = rendering
        self._routes = {
            route.path.rpartition("/")[2]: route
            for route in routes
            if isinstance(route, UnambiguousRoute)
        }
        self._arguments = {
            endpoint: route.argument_names for endpoint, route in self._routes.items()
        }
        self._answers: LRUCache[Key, Answer] = LRUCache(max_bytes, getsizeof=_size)
        self._timeout_seconds = timeout_seconds
        self._version = ""
        self._pending: dict[Key, asyncio.Future[Answer | None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        question = self._question(scope)
        # Seen before the database is asked: no answer is tagged as newer than it is.
        publication = self._freshness.publication
        if question is None or publication is None:
            await self._app(scope, receive, send)
            return
        if self._version != publication.version:
            self._version = publication.version
            self._answers.clear()
            RESPONSE_CACHE_BYTES.set(0)
        conditions = _Conditions(scope["headers"])
        key = Key(publication.version, question, preferred_encoding(conditions.accept_encoding))
        answer = self._answers.get(key)
        tag = self._matching_tag(key, conditions.tags) if conditions.tags else None
        if tag or answer:
            # As the router does, for those around who count by route.
            scope["route"] = self._routes[question.endpoint]
        if tag:
            _TAG_MATCH.inc()
            await self._send(send, publication, 304, [(b"etag", tag)])
            return
        if answer:
            _HIT.inc()
        else:
            _MISS.inc()
            answer = await self._ask(key, scope, receive, send)
            if answer is None:
                return
        if conditions.hold(publication):
            await self._send(send, publication, 304, [(b"etag", answer.tag)])
        else:
            await self._send(send, publication, 200, answer.headers, answer.body)

    async def _send(
        self, send: Send, publication: Publication, status: int, headers: Headers, body: bytes = b""
    ) -> None:
        modified = (b"last-modified", _http_date(publication.published_at))
        headers = [*headers, _VARY, modified, *self._freshness.headers()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _question(self, scope: Scope) -> Question | None:
        """None where there is no such route, and where the route has to say what is wrong."""
        path: str = scope["path"]
        if scope["method"] != "GET" or not path.startswith(PREFIX):
            return None
        package, _, endpoint = path[len(PREFIX) :].partition("/")
        known = self._arguments.get(endpoint)
        if known is None:
            return None
        arguments: list[str | None] = [None] * len(known)
        if scope["query_string"]:
            given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            for position, name in enumerate(known):
                values = {value for argument, value in given if argument == name}
                if len(values) > 1:
                    return None
                arguments[position] = values.pop() if values else None
        return Question(endpoint, normalise(package), tuple(arguments))

    def _matching_tag(self, key: Key, tags: bytes) -> bytes | None:
        """Whichever of the tags is that of the answer: compressed as the client likes best, or, as
        a small one is, not at all.
        """
        ours = {self._tag(key, key.encoding), self._tag(key, "")}
        for tag in tags.split(b","):
            opaque = tag.strip().removeprefix(b"W/")
            if opaque in ours:
                return opaque
        return None

    def _tag(self, key: Key, encoding: str) -> bytes:
        told = repr((self._rendering, key.version, key.question)).encode()
        digest = blake2b(told, digest_size=12).hexdigest()
        return f'"{digest}-{encoding}"'.encode() if encoding else f'"{digest}"'.encode()

    async def _ask(self, key: Key, scope: Scope, receive: Receive, send: Send) -> Answer | None:
        """The route's answer; None when that was not 200, and has been sent.

        Of those who ask the same at a time one asks the route. When that gets no answer that can be
        shared, another one does.
        """
        deadline = asyncio.timeout(self._timeout_seconds)
        try:
            async with deadline:
                while pending := self._pending.get(key):
                    answer = await asyncio.shield(pending)
                    if answer:
                        return answer
                return await self._lead(key, scope, receive, send)
        except TimeoutError:
            if not deadline.expired():
                raise
            late = RequestTimeoutError(self._timeout_seconds)
            await error_answer(late)(scope, receive, send)
            return None

    async def _lead(self, key: Key, scope: Scope, receive: Receive, send: Send) -> Answer | None:
        self._pending[key] = pending = asyncio.get_running_loop().create_future()
        answer = None
        try:
            answer = await self._fetch(key, scope, receive, send)
        finally:
            del self._pending[key]
            pending.set_result(answer)
        return answer

    async def _fetch(self, key: Key, scope: Scope, receive: Receive, send: Send) -> Answer | None:
        headers: Headers = []
        answer: Answer | None = None
        status = 0

        async def keep(message: Message) -> None:
            nonlocal headers, answer, status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
            if status != 200:
                await send(message)
            elif message["type"] == "http.response.body":
                assert not message.get("more_body"), "an answer comes in one piece"
                answer = self._answer(key, headers, message["body"])

        accepted = [(b"accept-encoding", key.encoding.encode())] if key.encoding else []
        others = (header for header in scope["headers"] if header[0] != b"accept-encoding")
        scope["headers"] = [*others, *accepted]
        await self._app(scope, receive, keep)
        if answer:
            self._keep(key, answer)
        return answer

    def _answer(self, key: Key, headers: Headers, body: bytes) -> Answer:
        tag = self._tag(key, dict(headers).get(b"content-encoding", b"").decode())
        lasting = [header for header in headers if header[0] != b"vary"]
        return Answer([*lasting, (b"etag", tag)], tag, body)

    def _keep(self, key: Key, answer: Answer) -> None:
        if (
            key.version == self._version
            and not answer.body.startswith(_NOTHING_MATCHES)
            and _size(answer) <= self._answers.maxsize
        ):
            self._answers[key] = answer
            RESPONSE_CACHE_BYTES.set(self._answers.currsize)


class _Conditions:
    """What a request's headers say of the answer that the client would like."""

    __slots__ = ("accept_encoding", "modified_since", "tags")

    def __init__(self, headers: Headers) -> None:
        self.accept_encoding = b""
        self.tags = b""
        self.modified_since = b""
        for name, value in headers:
            if name == b"accept-encoding":
                self.accept_encoding = _joined(self.accept_encoding, value)
            elif name == b"if-none-match":
                self.tags = _joined(self.tags, value)
            elif name == b"if-modified-since":
                self.modified_since = value

    def hold(self, publication: Publication) -> bool:
        """Whether the client need not be sent the answer that there is. Tags other than `*` have
        been looked at.
        """
        if self.tags:
            return self.tags.strip() == b"*"
        if not self.modified_since:
            return False
        try:
            since = parsedate_to_datetime(self.modified_since.decode("latin-1"))
        except (ValueError, OverflowError):
            return False
        if since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        return publication.published_at.replace(microsecond=0) <= since


def _joined(value: bytes, more: bytes) -> bytes:
    return value + b"," + more if value else more


@lru_cache(maxsize=256)
def preferred_encoding(accept_encoding: bytes) -> str:
    """Which of `ENCODINGS` the header likes best, the first of several; empty if it likes none."""
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


@lru_cache(maxsize=8)
def _http_date(moment: datetime) -> bytes:
    return format_datetime(moment.astimezone(UTC), usegmt=True).encode()


def _size(answer: Answer) -> int:
    return len(answer.body) + ENTRY_BYTES
