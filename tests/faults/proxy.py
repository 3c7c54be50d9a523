"""A TCP proxy on loopback that passes bytes on, and does not where a test says so."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a connection to the server behind."""

CHUNK_BYTES = 2**16

FOREVER = 10**6


@dataclass(eq=False)
class Passage:
    """A client's connection, and the one behind it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    request: bytes = b""
    """The first line of the HTTP request that has no answer yet."""

    is_open: bool = True

    def cut(self) -> None:
        self.is_open = False
        for writer in (self.client, self.server):
            writer.transport.abort()


Fault = Callable[[Passage, bytes], Awaitable[None]]
"""Changes an HTTP response, of which all bytes have arrived here."""


@dataclass
class Armed:
    fault: Fault
    request: bytes
    """A part of the request's first line."""

    left: int
    """How many answers it is for."""


@dataclass(eq=False)
class Proxy:
    connect: Connect
    port: int = 0
    passages: list[Passage] = field(default_factory=list)
    """All there were, in the order in which they were opened."""

    refusals: int = 0
    """How many of the next connections are closed at once."""

    injected: int = 0
    """How many faults there were."""

    _armed: list[Armed] = field(default_factory=list)
    _flows: asyncio.Event = field(default_factory=asyncio.Event)

    def arm(self, fault: Fault, request: bytes = b"", times: int = FOREVER) -> None:
        """Do this to the next answers to such requests."""
        self._armed.append(Armed(fault, request, times))

    def disarm(self) -> None:
        self._armed.clear()
        self.refusals = 0

    @property
    def open_passages(self) -> list[Passage]:
        """The connections that are open, oldest first. A client may try TLS on another before."""
        return [passage for passage in self.passages if passage.is_open]

    def cut(self) -> None:
        """End all connections."""
        for passage in self.open_passages:
            passage.cut()
            self.injected += 1

    def fall_silent(self) -> None:
        """Pass nothing on, and end nothing, until told to go on."""
        self._flows.clear()
        self.injected += 1

    def go_on(self) -> None:
        self._flows.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Proxy"]:
        self.go_on()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.go_on()
            for passage in self.passages:
                passage.cut()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusals:
            self.refusals -= 1
            self.injected += 1
            writer.transport.abort()
            return
        await self._flows.wait()
        try:
            behind, forth = await self.connect()
        except OSError:
            writer.transport.abort()
            return
        passage = Passage(writer, forth)
        self.passages.append(passage)
        # Whoever is cut, or ends, ends the other.
        with suppress(OSError):
            await asyncio.gather(
                self._pass_requests(passage, reader), self._pass_answers(passage, behind)
            )
        passage.cut()

    async def _pass_requests(self, passage: Passage, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._flows.wait()
            if data.startswith((b"GET ", b"POST ")):
                passage.request = data.partition(b"\r\n")[0]
            passage.server.write(data)
            await passage.server.drain()
        passage.cut()

    async def _pass_answers(self, passage: Passage, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._flows.wait()
            armed = self._armed_for(passage.request)
            passage.request = b""
            if armed:
                armed.left -= 1
                self.injected += 1
                await armed.fault(passage, data + await _rest(data, reader))
            else:
                passage.client.write(data)
                await passage.client.drain()
        passage.cut()

    def _armed_for(self, request: bytes) -> Armed | None:
        if not request:
            return None
        return next((one for one in self._armed if one.left and one.request in request), None)


async def _rest(data: bytes, reader: asyncio.StreamReader) -> bytes:
    """Read the rest of an HTTP response."""
    rest = b""
    while b"\r\n\r\n" not in data + rest:
        rest += await reader.read(CHUNK_BYTES)
    head, _, body = (data + rest).partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: (\d+)", head)
    missing = int(found[1]) - len(body) if found else 0
    return rest + await reader.readexactly(missing)


def delayed(seconds: float) -> Fault:
    async def fault(passage: Passage, answer: bytes) -> None:
        await asyncio.sleep(seconds)
        passage.client.write(answer)

    return fault


def cut_after(share: float) -> Fault:
    """This share of the answer's bytes."""

    async def fault(passage: Passage, answer: bytes) -> None:
        passage.client.write(answer[: int(len(answer) * share)])
        with suppress(OSError):
            await passage.client.drain()
        # An end, where an abort would take what was sent back.
        passage.client.close()

    return fault


async def silence(_passage: Passage, _answer: bytes) -> None:
    """No answer, and no end."""


def rewritten(rewrite: Callable[[bytes], bytes], status: bytes = b"") -> Fault:
    """Another body, with its length, and another status."""

    async def fault(passage: Passage, answer: bytes) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        body = rewrite(body)
        head = re.sub(rb"(?i)content-length: \d+", b"content-length: %d" % len(body), head)
        if status:
            head = re.sub(rb"^HTTP/1.1 \d+ [^\r]*", b"HTTP/1.1 " + status, head)
        passage.client.write(head + b"\r\n\r\n" + body)

    return fault
