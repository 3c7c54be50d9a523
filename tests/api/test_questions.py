"""A process remembers what spellings of questions mean, and not all that clients can make up."""

from datetime import date

import pytest

from app.api.questions import KNOWN_SPELLINGS, LONGEST_KNOWN_SPELLING, Endpoints
from app.downloads import Window
from app.main import ENDPOINTS

WINDOW = Window(date(2026, 1, 1), date(2026, 6, 29))

RECENT = "/api/packages/recent"


@pytest.fixture
def endpoints() -> Endpoints:
    """The service's, by themselves."""
    return Endpoints(ENDPOINTS)


def _plainest(endpoints: Endpoints, path: str, query: bytes, window: Window = WINDOW) -> bytes:
    asked = endpoints.asked(path, query, window, None)
    assert asked
    return asked.target


def test_spellings_of_one_question_have_one_target(endpoints: Endpoints) -> None:
    for _ in range(2):
        for path, query in (
            ("/api/packages/Flask/recent", b"&period=day"),
            ("/api/packages/flask/recent", b"period=day&period=day&nonce=1"),
            ("/api/packages/FLASK/recent", b"?&x&period=day"),
        ):
            assert _plainest(endpoints, path, query) == b"/api/packages/flask/recent?period=day"


def test_what_is_remembered_is_of_the_days_that_are_held(endpoints: Endpoints) -> None:
    query = b"start_date=2026-01-02"
    path = "/api/packages/flask/overall"
    later = Window(date(2026, 1, 2), date(2026, 6, 30))
    assert _plainest(endpoints, path, query) == b"/api/packages/flask/overall?" + query
    assert _plainest(endpoints, path, query, later) == b"/api/packages/flask/overall"


def test_a_flood_of_spellings_takes_bounded_memory(endpoints: Endpoints) -> None:
    remembered = endpoints._remembered.cache_info
    for number in range(2 * KNOWN_SPELLINGS):
        _plainest(endpoints, "/api/packages/flask/recent", b"nonce=%d" % number)
        assert (
            endpoints.asked("/api/packages/flask/recent", b"period=%d" % number, WINDOW, None)
            is None
        )
    assert remembered().currsize == KNOWN_SPELLINGS
    asked = remembered().misses
    long = b"package=flask&nonce=" + b"x" * LONGEST_KNOWN_SPELLING
    assert _plainest(endpoints, RECENT, long) == b"/api/packages/recent?package=flask"
    path = f"/api/packages/{'x' * LONGEST_KNOWN_SPELLING}/recent"
    assert endpoints.asked(path, b"", WINDOW, None) is None
    assert remembered().misses == asked
