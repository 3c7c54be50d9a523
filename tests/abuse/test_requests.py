"""Attacks by requests that are expensive, odd, or different each time."""

from urllib.parse import quote

import pytest

from app.ingest.sources.sample import PACKAGES
from tests.abuse.service import (
    PROXY,
    UNLIMITED_CLIENT,
    AttackedService,
    Attacker,
    dump_path,
    exchange,
    received_until_closed,
    request,
    statuses,
)

RECENT = b"/api/packages/requests/recent"
CLOSE = b"Connection: close\r\n"


def _flood(
    service: AttackedService, requests: list[bytes], client: str = UNLIMITED_CLIENT
) -> set[int]:
    """Send requests on one connection. Return the statuses of their responses."""
    found: set[int] = set()

    def attack(attacker: Attacker) -> None:
        connection = attacker.connect(client)
        for start in range(0, len(requests), 20):
            some = requests[start : start + 20]
            found.update(exchange(connection, b"".join(some), len(some)))

    service.assert_withstands(attack)
    return found


@pytest.mark.parametrize(
    "form",
    [
        "fe80::1%{}x",
        "{}x",
        "10.0.0.1, {}x",
        "[::1]{}x",
        "::ffff:192.0.2.1:{}x",
        "1,{}" + "2," * 1000,
    ],
)
def test_invalid_forwarded_addresses(service: AttackedService, form: str) -> None:
    """A trusted proxy forwards any text as the address of its client."""
    headers = [
        f"X-Forwarded-For: {form.format(str(number).ljust(7_000, 'x'))}\r\n"
        for number in range(600)
    ]
    requests = [request(RECENT, header.encode()) for header in headers]
    assert _flood(service, requests, PROXY) <= {200, 429}
    assert f"client={PROXY} " in service.log.read_text()


def test_many_forwarded_addresses(service: AttackedService) -> None:
    headers = [
        f"X-Forwarded-For: 2001:db8:{number:x}::{number:x}\r\n".encode() for number in range(3_000)
    ]
    assert _flood(service, [request(RECENT, header) for header in headers], PROXY) == {200}


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("X-API-Key: {}", 401),
        ("Authorization: Bearer {}", 401),
        ("Authorization: {}", 200),
        ("X-Request-ID: {}", 200),
        ("X-Forwarded-Prefix: /{}", 200),
        ("Accept: text/{}", 200),
        ("Accept-Encoding: {}", 200),
        ("Cookie: {}", 200),
        ("{}: x", 200),
        ("If-Modified-Since: {}", 200),
        ("If-None-Match: {}", 200),
        ("Origin: https://{}", 200),
    ],
)
def test_long_headers(service: AttackedService, header: str, status: int) -> None:
    requests = [
        request(RECENT, header.format(f"{number}".ljust(12_000, "x")).encode() + b"\r\n")
        for number in range(800)
    ]
    assert _flood(service, requests) == {status}


@pytest.mark.parametrize(
    ("target", "count"),
    [
        ("/api/packages/requests/recent?x={}" + "x" * 20_000, 3_500),
        ("/api/packages/requests/recent?x={}" + "&x" * 2_000, 200),
        ("/api/packages/unknown-{}/recent", 400),
        ("/api/packages/{}" + "x" * 3_000 + "/recent", 400),
        ("/api/packages/requests/overall?start_date=2020-01-01&fill={}", 400),
        ("/api/search?q=p{}", 400),
        ("/api/bulk/recent?package=requests&package=unknown-{}", 400),
        ("/api/badges/{}/month.svg", 400),
        ("/{}" + "/x" * 5_000, 400),
        ("/docs?{}" + "x" * 10_000, 400),
    ],
)
def test_different_requests(service: AttackedService, target: str, count: int) -> None:
    """Each request differs from all before it, so that no cache has the response."""
    requests = [request(target.format(number).encode()) for number in range(count)]
    assert _flood(service, requests) <= {200, 404, 422}


@pytest.mark.parametrize("target", [RECENT, b"/api/packages/requests/python_minor", b"/api/status"])
@pytest.mark.parametrize(
    "header",
    [
        b"Range: bytes=" + b",".join(b"%d-%d" % (one, one) for one in range(0, 3_000, 2)),
        b"Range: bytes=" + b"0-," * 5_000,
        b"Range: bytes=" + b"0" * 15_000 + b"-",
        b"Range: bytes=-" + b"9" * 15_000,
        b"If-None-Match: " + b'"x",' * 3_900,
        b"If-None-Match: " + b"W/" * 7_000,
        b"If-Range: " + b'"x",' * 3_900 + b"\r\nRange: bytes=0-1",
        b"Accept: " + b"text/csv;q=0.1," * 1_000,
        b"Accept-Encoding: " + b"gzip;q=0.1;" * 1_300,
        b"Accept-Encoding: gzip;q=" + b"0" * 15_000,
        b"Expect: " + b"100-continue," * 1_000,
    ],
    ids=lambda header: header[:30].decode(),
)
def test_long_lists(service: AttackedService, target: bytes, header: bytes) -> None:
    requests = [request(target, header + b"\r\n")] * 20
    assert _flood(service, requests) <= {200, 206, 416}


@pytest.mark.parametrize(
    "ranges",
    [
        b",".join(b"%d-%d" % (one, one) for one in range(0, 3_000, 2)),
        b"0-," * 5_000,
        b"0-0," * 3_900,
        b"-1," * 5_000,
    ],
)
def test_ranges_of_a_dump(service: AttackedService, ranges: bytes) -> None:
    def attack(attacker: Attacker) -> None:
        target = dump_path(attacker)
        for _ in range(20):
            connection = attacker.connect(UNLIMITED_CLIENT)
            connection.sendall(
                request(target, b"Range: bytes=" + ranges.strip(b",") + b"\r\n", CLOSE)
            )
            assert statuses(received_until_closed(connection))[0] in (200, 206, 400, 416)

    service.assert_withstands(attack)


@pytest.mark.parametrize("path", [b"/docs", b"/docs.md", b"/llms.txt"])
def test_prefixes(service: AttackedService, path: bytes) -> None:
    """A trusted proxy forwards any text as the prefix that it has removed."""
    for prefix in (b"X-Forwarded-Prefix: /%b\r\n", b"X-Forwarded-Prefix: %b\r\n"):
        headers = [prefix % (b"/".join([b"%d" % number] * 3_000)) for number in range(20)]
        headers += [prefix % (b"%d" % number).ljust(12_000, b"x") for number in range(20)]
        headers = [b"X-Forwarded-For: %b\r\n" % UNLIMITED_CLIENT.encode() + one for one in headers]
        assert _flood(service, [request(path, header) for header in headers], PROXY) == {200}


@pytest.mark.parametrize(
    "path", [b"/openapi.json", b"/docs", b"/api/dumps", b"/metrics", b"/ready", b"/assets/x"]
)
def test_unlimited_paths(service: AttackedService, path: bytes) -> None:
    """Sixteen clients request a large body all the time."""

    def attack(attacker: Attacker) -> None:
        connections = attacker.connections(16, clients=16)
        sent = request(path, b"Accept-Encoding: br\r\n")
        for connection in connections:
            connection.sendall(sent * 30)

    service.assert_withstands(attack)


def test_expensive_requests(service: AttackedService) -> None:
    """Eight clients request a hundred other packages each time. They exceed their limits soon."""

    def attack(attacker: Attacker) -> None:
        for client in range(8):
            found = []
            for number in range(10):
                names = "&".join(f"package={name}" for name in PACKAGES[number : number + 100])
                sent = request(f"/api/bulk/python_minor?{names}".encode())
                found += exchange(attacker.connect(client), sent, 1)
            assert found.count(200) <= 4

    service.assert_withstands(attack)


ODD_TARGETS = [
    ("http://test/api/packages/requests/recent", 200),
    ("http://user:pass@other:99/api/packages/requests/recent", 200),
    ("HTTP://test/health", 200),
    ("http://test", 400),
    ("http:///health", 400),
    ("ftp://test/health", 200),
    ("//test/api/packages/requests/recent", 404),
    ("/api/packages/requests/recent#fragment", 200),
    ("/api/packages/requests/recent/", 404),
    ("/api//packages/requests/recent", 404),
    ("/api/packages/../packages/requests/recent", 404),
    ("/api/packages/%2e%2e/packages/requests/recent", 404),
    ("/api/packages/requests%2frecent", 200),
    ("/api/packages/%72equests/recent", 200),
    ("/api/packages/requests%00/recent", 404),
    ("/api/packages/requests%0d%0aX-Injected:%201/recent", 404),
    ("/api/packages/%ff%fe/recent", 404),
    ("/api/packages/%/recent", 404),
    ("/api/packages/%zz/recent", 404),
    ("/api/packages/" + quote("naïve") + "/recent", 404),
    ("/api/packages/requests/recent?period=%00", 422),
    ("/api/packages/requests/recent?period=%ff", 422),
    ("/api/packages/requests/recent?" + "%26" * 1000, 200),
    ("/api/packages/requests/recent?" + "&" * 20_000, 200),
    ("/api/dumps/..%2f..%2f..%2fetc%2fpasswd", 404),
    ("/api/dumps/%2fetc%2fpasswd", 404),
    ("*", 404),
    ("test:80", 400),
]


def test_odd_targets(service: AttackedService) -> None:
    found = []

    def attack(attacker: Attacker) -> None:
        for target, _ in ODD_TARGETS:
            connection = attacker.connect(UNLIMITED_CLIENT)
            connection.sendall(request(target.encode(), CLOSE))
            received = received_until_closed(connection)
            found.append((target, *statuses(received)))
            assert b"X-Injected" not in received.partition(b"\r\n\r\n")[0]

    service.assert_withstands(attack)
    wrong = [one for one in found if one not in ODD_TARGETS]
    assert not wrong, wrong
