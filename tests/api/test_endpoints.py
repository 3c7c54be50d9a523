"""Requests are parsed by the query models that document the endpoints."""

from datetime import date
from urllib.parse import quote

import pytest

from app.api.endpoints import MAX_PARSED_URL_BYTES, PARSED_URLS, Endpoints, ParsedRequest
from app.domain.downloads import ServedRanges, Window
from app.errors import InvalidArgumentsError, NotFoundError
from app.main import ENDPOINTS

SERVED = ServedRanges(
    days=Window(date(2026, 1, 1), date(2026, 6, 29)),
    months=Window(date(2020, 3, 1), date(2026, 5, 31)),
)


PERIODS = "Input should be 'day', 'week' or 'month'"
BADGE_PERIODS = "Input should be 'day', 'week', 'month' or 'total'"
A_DAY = "should be a day such as 2026-11-20"
A_NUMBER = "should be a whole number, in digits"
A_CURSOR = "should be the next_cursor of another page"
MANY = "should have at most 100 values"
A_COUNTRY = "should look like 'US', or be 'null'"

WRONG_DAYS = (
    *("yesterday", "20261120", "2026-02-29", "1700000000", "2026-11-20T00:00:00"),
    "\uff12\uff10\uff12\uff16-11-20",
)
WRONG_CURSORS = (
    *("x", "%", "ü", "1:1:", "1:01:flask", "3:1:flask", "-1:1:flask", "1:-1:flask", "1:\u0661:a"),
    *(f"1:{2**31}:flask", f"1:1:{'x' * 201}", "1:1:fla'sk", "1:1:flask\n", "1:1:Flask"),
)


APRILS = "start_date=2020-04-01&end_date=2026-04-30&"


@pytest.fixture
def endpoints() -> Endpoints:
    """The service's endpoints, with a cache of their own."""
    return Endpoints(ENDPOINTS)


def _parse(endpoints: Endpoints, target: str, served: ServedRanges = SERVED) -> ParsedRequest:
    path, _, query = target.partition("?")
    parsed = endpoints.parse(path, query.encode(), served, None)
    assert parsed
    return parsed


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("packages/Flask/recent?&period=day", "packages/flask/recent?period=day"),
        ("packages/FLASK/recent?period=DAY&period=week&n=1", "packages/flask/recent?period=day"),
        ("packages/flask/recent?period=", "packages/flask/recent"),
        ("packages/flask/recent?period=&period=day", "packages/flask/recent"),
        ("packages/__all__/overall?mirrors=True", "packages/__all__/overall?mirrors=true"),
        ("packages/a/system?os=Linux&interval=day", "packages/a/system?os=linux"),
        ("packages/a/country?country=us", "packages/a/country?country=US"),
        ("packages/a/country?country=NULL", "packages/a/country?country=null"),
        ("packages/a/version?version=ALL", "packages/a/version?version=all"),
        ("packages/a/python_minor?version=3.10", "packages/a/python_minor?version=3.10"),
        ("packages/a/overall?start_date=2025-12-01&end_date=2026-06-29", "packages/a/overall"),
        ("packages/a/overall?start_date=2027-01-01", "packages/a/overall?start_date=2026-06-30"),
        *(
            (f"packages/a/overall?{spelling}", f"packages/a/overall?{range_}interval=month")
            for spelling, range_ in {
                "interval=month&start_date=0001-01-01&end_date=9999-12-31": "",
                "interval=Month&start_date=2020-03-01&end_date=2026-05-31": "",
                "interval=month&end_date=2026-06-29": "",
                # Partial months are omitted.
                "start_date=2020-03-02&interval=month&end_date=2026-05-30": APRILS,
                "start_date=2020-04-01&interval=month&end_date=2026-04-30": APRILS,
                "start_date=2026-06-01&interval=month": "start_date=2026-06-01&",
                "start_date=9999-12-31&interval=month": "start_date=2026-06-01&",
                "end_date=2020-03-30&interval=month": "end_date=2020-02-29&",
                "end_date=0001-01-01&interval=month": "end_date=2020-02-29&",
            }.items()
        ),
        ("top?month=2026-05&limit=100", "top?month=2026-05"),
        ("packages/Flask/history?format=JSON", "packages/flask/history"),
        ("badges/Flask/TOTAL", "badges/flask/total"),
        ("packages/recent", "packages/recent"),
        ("packages/recent/recent", "packages/recent/recent"),
        ("badges/A.b/month", "badges/a-b/month"),
        ("packages/bulk/recent?Period=day", "packages/bulk/recent"),
        ("packages/top/overall?%6Dirrors=%54rue&mirrors", "packages/top/overall?mirrors=true"),
        ("packages/overall/recent?period=%44AY&", "packages/overall/recent?period=day"),
        ("packages/a?format=JSON", "packages/a"),
        ("top?limit=007&limit=8", "top?limit=7"),
        ("badges/overall/MONTH", "badges/overall/month"),
        ("bulk/recent?package=B&package=a&package=A", "bulk/recent?package=a&package=b"),
        ("top?limit=100&period=month", "top"),
        ("search?q=A_b!&limit=20", "search?q=a-b"),
    ],
)
def test_equal_requests_have_one_target(
    endpoints: Endpoints, spelling: str, canonical: str
) -> None:
    target = _parse(endpoints, f"/api/{spelling}").target
    assert target == f"/api/{canonical}".encode()
    # A canonical target is its own canonical form.
    assert _parse(endpoints, target.decode()).target == target


@pytest.mark.parametrize(
    ("target", "parameter", "message"),
    [
        ("packages/a/recent?period=year", "period", PERIODS),
        ("packages/a/overall?mirrors=1", "mirrors", "Input should be 'true' or 'false'"),
        ("packages/a/recent?period=year&period=day", "period", PERIODS),
        *(
            (f"packages/a/{series}?{argument}={value}", argument, A_DAY)
            for series in ("overall", "system", "version")
            for argument in ("start_date", "end_date")
            for value in WRONG_DAYS
        ),
        ("packages/a/overall?fill=one", "fill", "Input should be 'zero'"),
        ("packages/a/system?interval=year", "interval", PERIODS),
        ("packages/a/system?format=xml", "format", "Input should be 'json' or 'csv'"),
        (
            "packages/a/system?os=beos",
            "os",
            "Input should be 'windows', 'linux', 'darwin', 'other' or 'null'",
        ),
        ("packages/a/ci?ci=yes", "ci", "Input should be 'true', 'false' or 'null'"),
        *(
            (f"packages/a/country?country={value}", "country", A_COUNTRY)
            for value in ("USA", "US%0A", "U\u017f")
        ),
        ("top?limit=0", "limit", "Input should be greater than or equal to 1"),
        ("top?limit=0&limit=2", "limit", "Input should be greater than or equal to 1"),
        ("top?limit=1001", "limit", "Input should be less than or equal to 1000"),
        ("trending?limit=many", "limit", A_NUMBER),
        *(
            (f"top?limit={quote(value)}", "limit", A_NUMBER)
            for value in ("+5", " 5", "1_0", "5.0", "5e1", "-1", "\uff15", "\u0665", "9" * 19)
        ),
        ("top?limit=999999999999999999", "limit", "Input should be less than or equal to 1000"),
        *(
            (f"packages/a/recent?period={quote(value)}", "period", PERIODS)
            for value in (" day", "day ", "day\n", "d\u0430y", "day,week", "day;week", "x" * 9000)
        ),
        ("packages/a/recent?period=+day", "period", PERIODS),
        ("packages/a/recent?p%65riod=y%65ar", "period", PERIODS),
        *(
            (f"packages/a/overall?mirrors={value}", "mirrors", "Input should be 'true' or 'false'")
            for value in ("0", "yes", "on", "t", "null", "none")
        ),
        # Endpoints without CSV refuse it, instead of returning JSON.
        *(
            (f"{path}format=csv", "format", "Input should be 'json'")
            for path in ("packages/a?", "search?q=a&", "badges/a/month?")
        ),
        (f"bulk/recent?{'package=a&' * 101}", "package", MANY),
        ("top?format=parquet", "format", "Input should be 'json' or 'csv'"),
        ("search", "q", "Field required"),
        ("search?q=", "q", "Field required"),
        ("search?q=-._%00é", "q", "should have a letter from a to z or a digit"),
        (f"search?q={'x' * 201}", "q", "String should have at most 200 characters"),
        ("search?q=flask&limit=101", "limit", "Input should be less than or equal to 100"),
        *(
            (f"search?q=flask&cursor={quote(cursor)}", "cursor", A_CURSOR)
            for cursor in WRONG_CURSORS
        ),
        (
            "packages/a/overall?start_date=2026-02-02&end_date=2026-02-01",
            "end_date",
            "should not be before start_date, which is 2026-02-02",
        ),
        ("badges/a/{}", "period", BADGE_PERIODS),
        ("badges/a/year", "period", BADGE_PERIODS),
        ("top?period=total", "period", "Input should be 'day', 'week', 'month' or 'all'"),
        *(
            (f"top?month={quote(value)}", "month", "should be a month such as 2026-05")
            for value in (
                *("2026-13", "2026-00", "0000-01", "2026-5", "202605", "2026", "2026-05-01"),
                *("garbage", "2026-05 ", "+026-05", "\uff12026-05", "2026-05\n", "all"),
            )
        ),
        ("top?month=2026-05&period=month", "period", "should not be combined with month"),
        ("top?period=all&month=2026-05", "period", "should not be combined with month"),
        ("bulk/recent?package=", "package", "Field required"),
    ],
)
def test_an_invalid_value_is_named(
    endpoints: Endpoints, target: str, parameter: str, message: str
) -> None:
    with pytest.raises(InvalidArgumentsError) as raised:
        _parse(endpoints, f"/api/{target}")
    assert [(one.parameter, one.message) for one in raised.value.errors] == [(parameter, message)]


@pytest.mark.parametrize("name", ["-", "a b", "{}", "\u212aelvin", "x" * 201])
def test_an_impossible_name(endpoints: Endpoints, name: str) -> None:
    with pytest.raises(NotFoundError, match="No package can have this name"):
        _parse(endpoints, f"/api/packages/{name}/recent")


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/api", "/api/packages", "/api/packages/a/b", "/api/a/b/c/d"),
        *("/api/packages//recent", "/api/badges//", "/api/packages/a/{}"),
    ],
)
def test_other_paths(endpoints: Endpoints, path: str) -> None:
    assert endpoints.parse(path, b"", SERVED, None) is None


def test_a_parsed_range_belongs_to_its_window(endpoints: Endpoints) -> None:
    target = "/api/packages/flask/overall?start_date=2026-01-02"
    later = SERVED._replace(days=Window(date(2026, 1, 2), date(2026, 6, 30)))
    assert _parse(endpoints, target).target == target.encode()
    assert _parse(endpoints, target, later).target == b"/api/packages/flask/overall"


@pytest.mark.parametrize(
    ("target", "has_unbounded_arguments"),
    [
        ("packages/a/overall?fill=zero", False),
        ("packages/a/overall?start_date=2026-02-01", True),
        ("bulk/overall?package=a", True),
    ],
)
def test_requests_with_arbitrary_arguments_are_recognised(
    endpoints: Endpoints, target: str, has_unbounded_arguments: bool
) -> None:
    assert _parse(endpoints, f"/api/{target}").has_unbounded_arguments is has_unbounded_arguments


def test_a_flood_of_urls_takes_bounded_memory(endpoints: Endpoints) -> None:
    cache_info = endpoints._cached.cache_info
    for number in range(2 * PARSED_URLS):
        _parse(endpoints, f"/api/packages/flask/recent?nonce={number}")
    assert cache_info().currsize == PARSED_URLS
    misses = cache_info().misses
    _parse(endpoints, f"/api/packages/flask/recent?nonce={'x' * MAX_PARSED_URL_BYTES}")
    assert cache_info().misses == misses
