"""Mutated and pipelined requests. Each response has its content and its place."""

import random
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from app.ingest.sources.sample import PACKAGES
from tests.abuse.service import UNLIMITED_CLIENT, AttackedService, received_until_closed
from tests.waiting import PATIENCE_SECONDS

SEED = 20

ROUNDS = 500
"""Number of connections for each kind of mutation."""

BODY = b"Content-Length: 4\r\n\r\nbody"
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n2;x=y\r\nxy\r\n0\r\nTrailer: x\r\n\r\n"


@dataclass(frozen=True)
class Form:
    """A request without its id."""

    method: bytes
    target: bytes
    rest: bytes
    """Further headers, a blank line, and the body."""

    def on_wire(self, request_id: bytes) -> bytes:
        head = b"%b %b HTTP/1.1\r\nHost: test\r\nX-Request-ID: %b\r\n"
        return head % (self.method, self.target, request_id) + self.rest


@dataclass(frozen=True)
class Answer:
    """A response with the id of the request that it belongs to."""

    request_id: bytes
    status: int
    body: bytes
    closes: bool


def _forms() -> list[Form]:
    targets = [
        f"/api/packages/{name}/{breakdown}".encode()
        for name in (*PACKAGES[:6], "unknown-name")
        for breakdown in ("recent", "overall", "python_minor", "system", "wrong")
    ]
    targets += [b"/health", b"/x", b"/api/dumps", b"/api/packages/requests/recent?period=year"]
    rests = (
        *(b"\r\n", BODY, CHUNKS, b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
        *(
            b"Accept-Encoding: gzip\r\n\r\n",
            b"Range: bytes=0-9\r\n\r\n",
            b"If-None-Match: *\r\n\r\n",
        ),
    )
    return [
        Form(method, target, rest)
        for target in targets
        for rest in rests
        for method in (b"GET", b"HEAD")
    ]


def _sent_and_received(address: tuple[str, int], parts: list[bytes]) -> bytes:
    with socket.socket() as connection:
        connection.bind((UNLIMITED_CLIENT, 0))
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            # The service has refused a request and closed the connection.
            pass
        return received_until_closed(connection)


def _answers(received: bytes, without_body: set[bytes]) -> Iterator[Answer]:
    """Split what was received, which has to end with a complete response."""
    while received:
        head, blank_line, received = received.partition(b"\r\n\r\n")
        assert blank_line, head
        status_line, *lines = head.split(b"\r\n")
        assert status_line.startswith(b"HTTP/1.1 "), status_line
        status = int(status_line.split()[1])
        if status == 100:
            continue
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        request_id = headers[b"x-request-id"]
        has_body = request_id not in without_body and status not in (204, 304)
        length = int(headers[b"content-length"]) if has_body else 0
        body, received = received[:length], received[length:]
        assert len(body) == length
        # Only the id of a problem differs between responses to equal requests.
        body = body.replace(request_id, b"")
        yield Answer(request_id, status, body, headers.get(b"connection") == b"close")


class Fuzzer:
    """Sends mutated requests among valid ones."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._random = random.Random(SEED)
        self._forms = _forms()
        self._expected: dict[Form, tuple[int, bytes]] = {}

    def _new_id(self) -> bytes:
        return b"%016x" % self._random.getrandbits(64)

    def _valid(self, most: int) -> list[tuple[bytes, Form]]:
        forms = self._random.choices(self._forms, k=self._random.randint(0, most))
        return [(self._new_id(), form) for form in forms]

    def _expect(self, form: Form) -> tuple[int, bytes]:
        """Return the status and the body of a request that is alone on its connection."""
        if form not in self._expected:
            request_id = self._new_id()
            without_body = {request_id} if form.method == b"HEAD" else set()
            received = _sent_and_received(self._address, [form.on_wire(request_id)])
            (answer,) = _answers(received, without_body)
            assert answer.request_id == request_id
            self._expected[form] = answer.status, answer.body
        return self._expected[form]

    def _parts(self, data: bytes) -> list[bytes]:
        """Return the data in one packet or in several."""
        cuts = sorted(self._random.sample(range(len(data)), self._random.choice((0, 0, 1, 3))))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def round(self, mutate: Callable[[random.Random, bytes], bytes]) -> tuple[list[Answer], int]:
        """Send a mutated request among valid ones. Return the responses that belong to none of the
        valid ones, and how many of the valid ones after it have no response.
        """
        before, after = self._valid(4), self._valid(4)
        form = self._random.choice([one for one in self._forms if one.method == b"GET"])
        mutated = mutate(self._random, form.on_wire(self._new_id()))
        data = b"".join(
            (
                *(one.on_wire(request_id) for request_id, one in before),
                mutated,
                *(one.on_wire(request_id) for request_id, one in after),
            )
        )
        valid = [request_id for request_id, _ in before + after]
        without_body = {request_id for request_id, one in before + after if one.method == b"HEAD"}
        try:
            received = _sent_and_received(self._address, self._parts(data))
            answers = list(_answers(received, without_body))
            first, rest = answers[: len(before)], answers[len(before) :]
            self._assert_expected(first, before)
            is_valid = [one.request_id in valid for one in rest]
            later = [one for one in rest if one.request_id in valid]
            # Either all of the later requests have a response, or the last ones of them.
            self._assert_expected(later, after[len(after) - len(later) :])
            # The responses to the mutated request come before them, and none follows an error that
            # closes the connection.
            assert is_valid == sorted(is_valid)
            assert not any(one.closes for one in answers[:-1])
        except AssertionError as error:
            raise AssertionError(f"after {data!r}") from error
        return rest[: len(rest) - len(later)], len(after) - len(later)

    def _assert_expected(self, answers: list[Answer], requests: list[tuple[bytes, Form]]) -> None:
        found = [(one.request_id, one.status, one.body) for one in answers]
        assert found == [(request_id, *self._expect(form)) for request_id, form in requests]


@pytest.fixture(scope="module")
def fuzzer(service: AttackedService) -> Fuzzer:
    return Fuzzer(service.socket_address)


def _flip(random: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, 3)):
        changed[random.randrange(len(data))] = random.randrange(256)
    return bytes(changed)


def _cut(random: random.Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data))]


def _remove(random: random.Random, data: bytes) -> bytes:
    start = random.randrange(len(data))
    return data[:start] + data[start + random.randint(1, 20) :]


def _repeat(random: random.Random, data: bytes) -> bytes:
    start = random.randrange(len(data))
    end = start + random.randint(1, 60)
    return data[:end] + data[start:end] * random.randint(1, 3) + data[end:]


def _insert(random: random.Random, data: bytes) -> bytes:
    start = random.randrange(len(data))
    return data[:start] + random.randbytes(random.randint(1, 30)) + data[start:]


def _double_line(random: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    number = random.randrange(1, len(lines))
    return b"\r\n".join([*lines[:number], lines[number - 1], *lines[number:]])


def _change_digits(random: random.Random, data: bytes) -> bytes:
    """Change lengths of bodies and chunks, and other numbers."""
    changed = bytearray(data)
    digits = [place for place, byte in enumerate(data) if byte in b"0123456789"]
    changed[random.choice(digits)] = random.choice(b"0123456789abcdefx-+ ")
    return bytes(changed)


def _change_line_end(random: random.Random, data: bytes) -> bytes:
    end = random.choice([match.start() for match in re.finditer(b"\r\n", data)])
    changed = random.choice((b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\n\r", b"\r\n\r\n", b""))
    return data[:end] + changed + data[end + 2 :]


@pytest.mark.parametrize(
    "mutate",
    [_flip, _cut, _remove, _repeat, _insert, _double_line, _change_digits, _change_line_end],
)
def test_mutated_requests(
    service: AttackedService, fuzzer: Fuzzer, mutate: Callable[[random.Random, bytes], bytes]
) -> None:
    for _ in range(ROUNDS):
        fuzzer.round(mutate)
    assert "Traceback" not in service.log.read_text()


def _add_noise(random: random.Random, data: bytes) -> bytes:
    noise = bytes(random.choice(range(0x21, 0x7F)) for _ in range(random.randint(0, 300)))
    return data.replace(b"\r\n", b"\r\nX-Noise: " + noise + b"\r\n", 1)


def test_harmless_mutations(fuzzer: Fuzzer) -> None:
    """Another header changes nothing."""
    for _ in range(ROUNDS):
        (answer,), missing = fuzzer.round(_add_noise)
        assert answer.status < 500
        assert not answer.closes
        assert missing == 0


def _make_invalid(random: random.Random, data: bytes) -> bytes:
    line = random.choice(
        (
            *(b"Host: other", b"Content-Length: x", b"Content-Length: -1", b"no header"),
            *(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked, x", b"a b: c", b": x"),
            *(b"Content-Length: 99999", b"X: \x00", b"Content-Length: 4\r\nContent-Length: 5"),
        )
    )
    return data.replace(b"\r\n", b"\r\n" + line + b"\r\n", 1)


def test_invalid_requests(fuzzer: Fuzzer) -> None:
    """One error follows the responses before it, and the connection ends."""
    for _ in range(ROUNDS):
        (answer,), _ = fuzzer.round(_make_invalid)
        assert answer.status in (400, 413, 501)
        assert answer.closes
