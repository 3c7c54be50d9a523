"""Answers what was answered before: conditional requests, and a cache of finished responses.

Data changes with a publish and at no other time. So an answer's `ETag` can be told from what is
published and from what was asked, without looking at the data; and a response, compressed as it
was, is good until the next publish.

What is asked as it should be is answered here, whether it was answered before or not: the way
through FastAPI takes longer than the query. FastAPI documents, and says what is wrong.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import blake2b

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.answering import answered
from app.api.compression import COMPRESSED_FROM_BYTES, compressed, preferred_encoding
from app.api.dependencies import Repositories
from app.api.fixed_headers import Headers, lines
from app.api.formats import accepted_format
from app.api.freshness import Freshness
from app.api.offloading import LARGE_BYTES, offloaded_if
from app.api.problem_details import error_answer
from app.api.questions import Asked, Endpoint, Endpoints
from app.api.request_guard import RequestGuardMiddleware
from app.clock import Clock
from app.downloads import Publication, Window
from app.errors import StatsError
from app.metrics import RESPONSE_CACHE, RESPONSE_CACHE_BYTES

ENTRY_BYTES = 600
"""Of an entry besides its body: the key, the headers, the objects that hold them."""

OPEN_SHARE = 1 / 4
"""Of the cache, for days and sets of packages of a client's own choice. Whoever makes up any number
of them has nothing forgotten that others ask for.
"""

_VARY = (b"vary", b"Accept-Encoding")
_VARY_BY_FORMAT = (b"vary", b"Accept, Accept-Encoding")

HIT = RESPONSE_CACHE.labels("hit")
TAG_MATCH = RESPONSE_CACHE.labels("tag_match")
_MISS = RESPONSE_CACHE.labels("miss")


@dataclass(frozen=True, slots=True)
class Answer:
    endpoint: Endpoint
    encoding: str
    """Of the body; empty is none."""

    tag: bytes
    body: bytes
    media_type: bytes
    content_lines: bytes
    tag_lines: bytes
    """The headers that stay as they are until the next publish, as they go over the wire."""

    @classmethod
    def of(
        cls, endpoint: Endpoint, encoding: str, tag: bytes, body: bytes, media_type: bytes
    ) -> "Answer":
        content_lines = lines(_content_headers(encoding, body, media_type))
        tag_lines = lines(_tag_headers(tag, endpoint))
        return cls(endpoint, encoding, tag, body, media_type, content_lines, tag_lines)

    @property
    def headers(self) -> Headers:
        return [
            *_content_headers(self.encoding, self.body, self.media_type),
            *_tag_headers(self.tag, self.endpoint),
        ]


def _content_headers(encoding: str, body: bytes, media_type: bytes) -> Headers:
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body))]
    if encoding:
        headers.append((b"content-encoding", encoding.encode()))
    return headers


def _tag_headers(tag: bytes, endpoint: Endpoint) -> Headers:
    """All that is said of the content where the client's own copy is right."""
    return [(b"etag", tag), _VARY_BY_FORMAT if endpoint.has_formats else _VARY]


class _Kept:
    """Answers of so many bytes together. The one that was not asked for longest goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._answers: OrderedDict[tuple[bytes, str], Answer] = OrderedDict()
        self.bytes = 0

    def get(self, key: tuple[bytes, str]) -> Answer | None:
        answer = self._answers.get(key)
        if answer:
            self._answers.move_to_end(key)
        return answer

    def keep(self, target: bytes, encoding: str, answer: Answer) -> None:
        size = _size(target, answer)
        if size > self._max_bytes:
            return
        # Never there yet: of those who ask at a time, one asks the database.
        self._answers[target, encoding] = answer
        self.bytes += size
        while self.bytes > self._max_bytes:
            (target, _), forgotten = self._answers.popitem(last=False)
            self.bytes -= _size(target, forgotten)

    def clear(self) -> None:
        self._answers.clear()
        self.bytes = 0


class ResponseCache:
    """Answers by their question's plainest spelling and the encoding that the client likes best.

    So what is asked in that spelling is found without being parsed, and there are not more entries
    than questions, whatever clients make up.
    """

    def __init__(self, freshness: Freshness, max_bytes: int) -> None:
        self._freshness = freshness
        of_open = int(max_bytes * OPEN_SHARE)
        self._open = _Kept(of_open)
        self._others = _Kept(max_bytes - of_open)
        self._version = ""

    def get(self, target: bytes, encoding: str) -> Answer | None:
        """`target` is a path with its query."""
        self._forget_what_was_published_before()
        key = target, encoding
        return self._others.get(key) or self._open.get(key)

    def keep(self, version: str, asked: Asked, encoding: str, answer: Answer) -> None:
        """The answer is one of a version of what is published, which may have changed since."""
        self._forget_what_was_published_before()
        if version != self._version:
            return
        kept = self._open if asked.is_open else self._others
        kept.keep(asked.target, encoding, answer)
        self._tell_bytes()

    def _forget_what_was_published_before(self) -> None:
        publication = self._freshness.publication
        version = publication.version if publication else ""
        if version != self._version:
            self._version = version
            self._open.clear()
            self._others.clear()
            self._tell_bytes()

    def _tell_bytes(self) -> None:
        RESPONSE_CACHE_BYTES.set(self._open.bytes + self._others.bytes)


_Pending = tuple[str, bytes, str]
"""What requests have to agree on to share an answer: version, target and preferred encoding."""


class HTTPCacheMiddleware:
    """Answers valid requests to the `endpoints`, and leaves all others to the routes.

    `rendering` is part of every tag: it differs if the same data is rendered to other bytes.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        cache: ResponseCache,
        endpoints: Endpoints,
        repositories: Callable[[], Repositories],
        freshness: Freshness,
        rendering: str,
        clock: Clock,
        timeout_seconds: float,
    ) -> None:
        self._app = app
        self._cache = cache
        self._endpoints = endpoints
        self._repositories = repositories
        self._freshness = freshness
        self._rendering = rendering
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._pending: dict[_Pending, asyncio.Task[tuple[Answer, Publication]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        publication = self._freshness.publication
        conditions = _Conditions(scope["headers"])
        asked = self._asked(scope, conditions, publication.window) if publication else None
        if publication is None or asked is None:
            await self._app(scope, receive, send)
            return
        # As the router does, for those around who count by route.
        scope["route"] = asked.endpoint.route
        encoding = preferred_encoding(conditions.accept_encoding)
        tags = self._tags(publication, asked, encoding) if conditions.tags else set()
        tag = conditions.matching(tags)
        answer = self._cache.get(asked.target, encoding)
        if tag:
            TAG_MATCH.inc()
            await self._send(send, publication, 304, _tag_headers(tag, asked.endpoint))
        elif answer:
            HIT.inc()
            await self._send_answer(send, publication, conditions, answer)
        else:
            _MISS.inc()
            miss = partial(self._find_and_send, asked, publication, conditions)
            await RequestGuardMiddleware(miss, self._timeout_seconds)(scope, receive, send)

    def _asked(self, scope: Scope, conditions: "_Conditions", window: Window) -> Asked | None:
        if scope["method"] != "GET":
            return None
        accepted = accepted_format(conditions.accept)
        return self._endpoints.asked(scope["path"], scope["query_string"], window, accepted)

    def _tags(self, publication: Publication, asked: Asked, encoding: str) -> set[bytes]:
        """The tags that the answer may have: small bodies are not compressed."""
        return {self._tag(publication, asked, one) for one in (encoding, "")}

    def _tag(self, publication: Publication, asked: Asked, encoding: str) -> bytes:
        """Depends on everything that the bytes of the body depend on, and on nothing else."""
        told = b"\n".join([self._rendering.encode(), publication.version.encode(), asked.target])
        digest = blake2b(told, digest_size=12).hexdigest()
        return f'"{digest}-{encoding}"'.encode() if encoding else f'"{digest}"'.encode()

    async def _find_and_send(
        self,
        asked: Asked,
        publication: Publication,
        conditions: "_Conditions",
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        encoding = preferred_encoding(conditions.accept_encoding)
        key = publication.version, asked.target, encoding

        def ask(window: Window) -> Asked:
            asked = self._asked(scope, conditions, window)
            assert asked
            return asked

        try:
            # Equal requests share one query. One that is given up does not end it for the others.
            task = self._pending.get(key)
            if task is None:
                task = asyncio.create_task(self._find(ask, publication, encoding))
                self._pending[key] = task
                task.add_done_callback(partial(self._found, key))
            answer, seen = await asyncio.shield(task)
        except StatsError as error:
            await error_answer(error)(scope, receive, send)
        else:
            await self._send_answer(send, seen, conditions, answer)

    async def _find(
        self, ask: Callable[[Window], Asked], publication: Publication, encoding: str
    ) -> tuple[Answer, Publication]:
        """The answer, and the publication that its query saw."""
        rendered, publication = await answered(
            self._repositories(), lambda window: ask(window)[:2], publication
        )
        asked = ask(publication.window)
        body, media_type, is_kept = rendered
        used = encoding if len(body) >= COMPRESSED_FROM_BYTES else ""
        if used:
            body = await offloaded_if(len(body) >= LARGE_BYTES, compressed, body, used)
        else:
            # orjson leaves room for more behind what it returns, several times as much as is used.
            body = bytes(memoryview(body))
        tag = self._tag(publication, asked, used)
        answer = Answer.of(asked.endpoint, used, tag, body, media_type)
        if is_kept:
            self._cache.keep(publication.version, asked, encoding, answer)
        return answer, publication

    def _found(self, key: _Pending, task: asyncio.Task[tuple[Answer, Publication]]) -> None:
        del self._pending[key]
        if not task.cancelled():
            # Looked at here, also when nobody has waited for it.
            task.exception()

    async def _send_answer(
        self, send: Send, publication: Publication, conditions: "_Conditions", answer: Answer
    ) -> None:
        if conditions.allow_304(answer, publication):
            await self._send(send, publication, 304, _tag_headers(answer.tag, answer.endpoint))
        else:
            await self._send(send, publication, 200, answer.headers, answer.body)

    async def _send(
        self, send: Send, publication: Publication, status: int, headers: Headers, body: bytes = b""
    ) -> None:
        headers = [*headers, *self._freshness.headers(publication, self._clock())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Conditions:
    """The request headers that decide which representation is sent, or if any is."""

    __slots__ = ("accept", "accept_encoding", "modified_since", "tags")

    def __init__(self, headers: Headers) -> None:
        self.accept = b""
        self.accept_encoding = b""
        self.tags = b""
        self.modified_since = b""
        for name, value in headers:
            if name == b"accept-encoding":
                self.accept_encoding = _joined(self.accept_encoding, value)
            elif name == b"accept":
                self.accept = _joined(self.accept, value)
            elif name == b"if-none-match":
                self.tags = _joined(self.tags, value)
            elif name == b"if-modified-since":
                self.modified_since = value

    def matching(self, ours: set[bytes]) -> bytes | None:
        """The tag in `If-None-Match` that is one of ours."""
        given = (tag.strip().removeprefix(b"W/") for tag in self.tags.split(b",") if tag)
        return next((tag for tag in given if tag in ours), None)

    def allow_304(self, answer: Answer, publication: Publication) -> bool:
        """True if the client has this answer already. A tag goes before a date.

        The date has to be equal. A publish becomes visible some time after `published_at`, so that
        a later date does not mean that the client has received it.
        """
        if self.tags:
            return self.tags.strip() == b"*" or self.matching({answer.tag}) is not None
        if not self.modified_since:
            return False
        try:
            since = parsedate_to_datetime(self.modified_since.decode("latin-1"))
        except (ValueError, OverflowError):
            return False
        if since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        return publication.published_at.replace(microsecond=0) == since


def _joined(value: bytes, more: bytes) -> bytes:
    return value + b"," + more if value else more


def _size(target: bytes, answer: Answer) -> int:
    return len(target) + len(answer.body) + ENTRY_BYTES
