"""nginx and Varnish in front of the service, with the configurations of the documentation."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urljoin

import psutil
import pytest

from tests.processes import ROOT, free_port, get, wait_for
from tests.waiting import PATIENCE_SECONDS, wait_until

DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
PATH = "/api/packages/requests/overall"
CLIENT_HEADERS = (
    "x-request-id",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
)


def _documented(language: str, service: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(block).replace("8000", service.rpartition(":")[2])


@contextmanager
def _running(port: int, *command: str | Path) -> Iterator[str]:
    process = psutil.Popen(command)
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


@contextmanager
def nginx(
    service: str, folder: Path, *, expires_at_once: bool = False, prefix: str = ""
) -> Iterator[str]:
    port = free_port()
    configuration = _documented("nginx", service)
    if expires_at_once:
        # nginx has no shorter time than a second.
        expiry = "proxy_ignore_headers Cache-Control; proxy_cache_valid 200 1s;"
        configuration = configuration.replace("proxy_cache_lock on;", expiry)
    if prefix:
        header = f"; proxy_set_header X-Forwarded-Prefix {prefix};"
        configuration = configuration.replace("location / ", f"location {prefix}/ ")
        configuration = configuration.replace("= /metrics", f"= {prefix}/metrics")
        configuration = re.sub("(?<=proxy_pass )(.*);", rf"\1/{header}", configuration)
    configuration = configuration.replace("/var/cache/nginx/stats", str(folder / "cache"))
    configuration = configuration.replace("listen 80", f"listen 127.0.0.1:{port}")
    temporary = " ".join(
        f"{name}_temp_path {folder / name};"
        for name in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"user root; daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{configuration}}}\n"
    )
    with _running(port, "nginx", "-p", folder, "-c", file) as address:
        yield address


@contextmanager
def varnish(service: str, folder: Path, *, expires_at_once: bool = False) -> Iterator[str]:
    port = free_port()
    configuration = _documented("vcl", service)
    if expires_at_once:
        expiry = "set beresp.ttl = 1ms; set beresp.grace = 0s;"
        configuration += f"sub vcl_backend_response {{ {expiry} }}\n"
    file = folder / "varnish.vcl"
    file.write_text(configuration)
    options = ("-F", "-j", "none", "-n", folder / "varnish", "-s", "malloc,32m")
    with _running(port, "varnishd", *options, "-a", f"127.0.0.1:{port}", "-f", file) as address:
        yield address


CACHES = pytest.mark.parametrize("cache", [nginx, varnish])
Cache = Callable[..., AbstractContextManager[str]]


def _counted(service: str, *statuses: int) -> float:
    """Return how many requests for the path the service has answered with one of the statuses. It
    counts requests a little later.
    """
    status = "|".join(map(str, statuses))
    pattern = rf'^pypi_stats_requests_total{{.*route="[^"]*/overall",status="(?:{status})"}} (\S+)'
    found = re.findall(pattern, get(f"{service}/metrics").text, re.MULTILINE)
    return sum(map(float, found))


@CACHES
def test_a_cache_answers_without_the_service(cache: Cache, service: str, tmp_path: Path) -> None:
    before = _counted(service, 200, 304)
    original = get(f"{service}{PATH}")
    with cache(service, tmp_path) as address:
        first = get(f"{address}{PATH}")
        wait_until(lambda: _counted(service, 200, 304) == before + 2)
        for response in (get(f"{address}{PATH}"), get(f"{address}{PATH}")):
            assert response.content == original.content == first.content
            for name in ("cache-control", "x-data-as-of", "access-control-allow-origin"):
                assert response.headers[name] == original.headers[name]
            assert not [name for name in CLIENT_HEADERS if name in response.headers]
            tag = response.headers["etag"]
            current = get(f"{address}{PATH}", **{"If-None-Match": tag})
            assert (current.status_code, current.content) == (304, b"")
            modified = response.headers["last-modified"]
            assert get(f"{address}{PATH}", **{"If-Modified-Since": modified}).status_code == 304
        get(f"{service}{PATH}")
        wait_until(lambda: _counted(service, 200, 304) > before + 2)
        assert _counted(service, 200, 304) == before + 3
    assert all(name in original.headers for name in CLIENT_HEADERS)


@CACHES
def test_encodings_and_formats_are_cached_apart(cache: Cache, service: str, tmp_path: Path) -> None:
    with cache(service, tmp_path) as address:
        json, csv, packed = (
            get(f"{address}{PATH}", **headers)
            for headers in ({}, {"Accept": "text/csv"}, {"Accept-Encoding": "gzip"})
        )
        assert csv.text.startswith("category,date,downloads")
        assert json.json() == packed.json()
        assert packed.headers["content-encoding"] == "gzip"
        assert get(f"{address}{PATH}", **{"Accept-Encoding": "identity"}).json() == json.json()


@CACHES
def test_an_old_copy_is_revalidated_with_its_tag(
    cache: Cache, service: str, tmp_path: Path
) -> None:
    with cache(service, tmp_path, expires_at_once=True) as address:
        first = get(f"{address}{PATH}")
        before = _counted(service, 304)

        def is_revalidated() -> bool:
            response = get(f"{address}{PATH}")
            assert response.content == first.content
            return _counted(service, 304) > before

        wait_until(is_revalidated)


@CACHES
def test_errors_are_not_cached(cache: Cache, service: str, tmp_path: Path) -> None:
    with cache(service, tmp_path) as address:
        before = _counted(service, 422)
        for _ in range(2):
            assert get(f"{address}{PATH}?mirrors=x").status_code == 422
        wait_until(lambda: _counted(service, 422) == before + 2)


@CACHES
def test_the_metrics_are_blocked(cache: Cache, service: str, tmp_path: Path) -> None:
    with cache(service, tmp_path) as address:
        for path in ("/metrics", "/metrics?x=1", "/%6Detrics", "/metric%73", "/%6d%65trics"):
            # httpx would send the decoded path.
            options = ("--silent", "--output", "/dev/null", "--write-out", "%{http_code}")
            status = subprocess.check_output(["curl", *options, f"{address}{path}"])
            assert status == b"403", path
        assert get(f"{address}/api/status").status_code == 200
        assert get(f"{address}/api/packages/zope%2Einterface/recent").status_code in (200, 404)


def test_links_work_below_a_prefix(service: str, tmp_path: Path) -> None:
    with nginx(service, tmp_path, prefix="/stats") as address:
        index = get(f"{address}/stats/").json()
        for name in ("docs", "openapi", "status"):
            assert get(address + index[name]).status_code == 200
        for path in ("/stats/api", "/stats/api/"):
            location = urljoin(address + path, get(address + path).headers["location"])
            assert location == f"{address}/stats/docs"
        for asset in re.findall('(?:src|href)="(assets/[^"]+)"', get(location).text):
            assert get(urljoin(location, asset)).status_code == 200
        assert "/stats/docs lists" in get(f"{address}/stats/nothing").json()["detail"]
        text = get(f"{address}/stats/llms.txt").text
        assert "`/docs.md`" not in text
        for example in re.findall("^Example: `(.*)`$", text, re.MULTILINE):
            expected = {"/stats/metrics": 403}.get(example, 404 if "/dumps/" in example else 200)
            assert get(address + example).status_code == expected, example
