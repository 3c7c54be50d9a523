"""The documentation pages, as they are sent. `tests/browser` has what becomes of them."""

import asyncio
import re
from hashlib import sha256
from unittest.mock import Mock
from urllib.parse import urljoin

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.clock import utc_now
from app.ingest.pipeline import read_and_publish
from app.ingest.publish import PublishContext
from app.ingest.sources.sample import SampleSource
from app.main import Service
from app.settings import Settings
from tests.days import FORCED, days_ago
from tests.waiting import until_known

PAGES = ("/docs", "/redoc")
FIRST = ("recent", "overall", "python_major", "python_minor", "system")
ADDRESS = re.compile(r"""<(?:script|link)[^>]*(?:src|href)="([^"]+)\"""")


async def _assets(client: httpx.AsyncClient, page: str) -> list[str]:
    found = ADDRESS.findall((await client.get(page)).text)
    assert len(found) >= 4
    return [urljoin(page, address) for address in found]


@pytest.mark.parametrize("page", PAGES)
async def test_pages_are_revalidated(client: httpx.AsyncClient, page: str) -> None:
    """Pages contain the addresses of the running release's assets."""
    response = await client.get(page)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/api", "/api/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_api_leads_to_the_documentation(
    client: httpx.AsyncClient, path: str, method: str
) -> None:
    """READMEs link there. The address is relative, so it works below a proxy's prefix."""
    response = await client.request(method, path)
    assert response.status_code == 307
    assert urljoin(f"/prefix{path}", response.headers["location"]) == "/prefix/docs"


@pytest.mark.parametrize("path", ["/docs.md", "/llms.txt"])
async def test_the_documentation_as_text(
    app: Service, client: httpx.AsyncClient, path: str
) -> None:
    """It contains all endpoints, arguments and examples of the OpenAPI document."""
    response = await client.get(path)
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    document = app.openapi()
    places = [response.text.index(f"## GET {template}\n") for template in document["paths"]]
    for template, operations in document["paths"].items():
        section = response.text.partition(f"## GET {template}\n")[2].partition("\n## ")[0]
        for parameter in operations["get"].get("parameters", ()):
            assert f"* `{parameter['name']}`" in section
            assert parameter["description"] in section
        assert "Example: `/" in section
    assert "One of day, week, month." in response.text
    assert '{"data":{"last_day":42817003' in response.text
    # The documented endpoints come first.
    first = [f"/api/packages/{{package}}/{name}" for name in FIRST]
    assert [*document["paths"]][: len(first)] == first
    assert sorted(places)[: len(first)] == places[: len(first)]


async def test_the_guide_explains_in_order(client: httpx.AsyncClient) -> None:
    text = (await client.get("/docs.md")).text
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings[:7] == [
        *("Figures", "Mirrors", "180 days", "Daily updates", "Etiquette", "API client"),
        "Known breaks",
    ]
    for part in ("pip install -U pypistats", "pypistats.BASE_URL", "2026-08-24: PyPI counts only"):
        assert part in text


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs.md", "/"])
async def test_sample_data_is_obvious(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine, path: str
) -> None:
    real = await client.get(path)
    await read_and_publish(PublishContext(engine, FORCED, utc_now), SampleSource(), days_ago(0))
    await until_known(app)
    sample = await client.get(path)
    notices = ["sample data for trying" in one.text for one in (real, sample)]
    if path == "/":
        notices = [one.json()["sample"] for one in (real, sample)]
    assert notices == [False, True]
    assert "x-data-source" not in real.headers
    for other in ("/health", "/api/nothing", "/api/packages/requests/recent", "/assets/none", path):
        assert (await client.get(other)).headers["x-data-source"] == "sample", other


@pytest.mark.parametrize("page", PAGES)
async def test_pages_have_a_strict_policy(client: httpx.AsyncClient, page: str) -> None:
    headers = (await client.get(page)).headers
    policy = dict(
        directive.split(maxsplit=1) for directive in headers["content-security-policy"].split("; ")
    )
    assert policy.pop("style-src") in ("'self'", "'self' 'unsafe-inline'")
    assert policy.pop("worker-src", "blob:") == "blob:"
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("page", PAGES)
async def test_pages_load_no_foreign_files_and_have_no_inline_script(
    client: httpx.AsyncClient, page: str
) -> None:
    html = (await client.get(page)).text
    assert "//" not in html
    assert re.findall(r"<script(?![^>]* src=)|<script[^>]*>[^<]|<style|\son\w+=", html) == []


@pytest.mark.parametrize("page", PAGES)
async def test_assets_are_immutable(client: httpx.AsyncClient, page: str) -> None:
    """Since their addresses change with their content."""
    types = {
        "js": "text/javascript; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "svg": "image/svg+xml",
    }
    for address in await _assets(client, page):
        response = await client.get(address)
        assert response.status_code == 200
        assert response.headers["content-type"] == types[address.rpartition(".")[2]]
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert sha256(response.content).hexdigest()[:16] in address
        length = response.headers["content-length"]
        assert (await client.head(address)).headers["content-length"] == length


async def test_redoc_loads_no_foreign_logo(client: httpx.AsyncClient) -> None:
    (script,) = [address for address in await _assets(client, "/redoc") if "standalone" in address]
    assert "cdn." not in (await client.get(script)).text


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("root_path", ["", "/stats"])
async def test_pages_work_below_a_prefix(app: Service, page: str, root_path: str) -> None:
    """The proxy leaves the prefix in the path, or removes it and sends a header."""
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for address in await _assets(client, root_path + page):
            assert address.startswith(f"{root_path}/assets/")
            assert (await client.get(address)).status_code == 200
        assert (await client.get(urljoin(root_path + page, "openapi.json"))).status_code == 200


async def test_the_path_of_assets_serves_nothing_else(client: httpx.AsyncClient) -> None:
    outside = ("..%2Fdocs_page.py", "%2E%2E/docs_page.py", "%2Fetc%2Fpasswd", "%00")
    above = ("..%2F" * 9 + "etc%2Fpasswd", "..%5C..%5Cpyproject.toml")
    for name in ("", "swagger.js", "redoc-0000000000000000.js", *outside, *above):
        response = await client.get(f"/assets/{name}")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert "immutable" not in response.headers.get("cache-control", "")


PREFIXED = Settings(rate_limits="", trusted_proxies=("127.0.0.1",))


@pytest.mark.parametrize("settings", [PREFIXED])
@pytest.mark.parametrize(
    ("root_path", "forwarded", "peer", "prefix"),
    [
        ("", None, "127.0.0.1", ""),
        ("/a/b", None, "127.0.0.1", "/a/b"),
        ("", "/stats/", "127.0.0.1", "/stats"),
        ("/a", "/stats", "127.0.0.1", "/stats"),
        ("/a", "/outer, /inner", "127.0.0.1", "/outer/inner"),
        ("/a", "/", "127.0.0.1", ""),
        # Headers of others, and texts that are no prefix, change nothing.
        ("", "/stats", "192.0.2.1", ""),
        ("/a", "//evil.example", "127.0.0.1", "/a"),
        ("", "https://evil.example", "127.0.0.1", ""),
        ("", f"/{'x' * 200}", "127.0.0.1", ""),
    ],
)
async def test_links_begin_with_the_prefix(
    app: Service, root_path: str, forwarded: str | None, peer: str, prefix: str
) -> None:
    transport = httpx.ASGITransport(app, root_path=root_path, client=(peer, 1))
    headers = {"X-Forwarded-Prefix": forwarded} if forwarded else {}
    async with httpx.AsyncClient(
        transport=transport, base_url=f"http://test{root_path}", headers=headers
    ) as client:
        index = (await client.get("/")).json()
        links = [index[name] for name in ("docs", "openapi", "status")]
        assert links == [f"{prefix}{path}" for path in ("/docs", "/openapi.json", "/api/status")]
        for path, link in (
            ("/nothing", "/docs"),
            ("/nothing%0A", "/docs"),
            ("/api/dumps/none", "/api/dumps"),
        ):
            response = await client.get(path)
            assert response.status_code == 404
            assert f": {prefix}{link} lists" in response.json()["detail"]
        # Data endpoints are found below the prefix, too.
        assert (await client.get("/api/packages/flask/recent?period=x")).status_code == 422


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
async def test_content_is_the_same_in_every_encoding_and_order(
    client: httpx.AsyncClient, path: str
) -> None:
    """Compressing one response changes nothing of the next."""
    encodings = ("identity", "gzip", "identity", "br", "gzip")
    responses = [
        await client.get(path, headers={"Accept-Encoding": encoding}) for encoding in encodings
    ]
    assert len({response.text for response in responses}) == 1
    lengths = [response.headers.get("content-length") for response in responses]
    assert lengths[0] == lengths[2] == str(len(responses[0].content))
    tags = [response.headers["etag"] for response in responses]
    assert (tags[0], tags[1]) == (tags[2], tags[4])
    assert len(set(tags)) == 3
    for tag, encoding in zip(tags, encodings, strict=True):
        headers = {"Accept-Encoding": encoding, "If-None-Match": tag}
        current = await client.get(path, headers=headers)
        assert (current.status_code, current.content) == (304, b"")
        assert (current.headers["etag"], current.headers["vary"]) == (tag, "Accept-Encoding")


async def test_the_document_is_created_once(
    client: httpx.AsyncClient, app: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    openapi = Mock(wraps=app.api.openapi)
    monkeypatch.setattr(app.api, "openapi", openapi)
    encodings = ("identity", "gzip", "br", "gzip")
    requests = [
        client.get("/openapi.json", headers={"Accept-Encoding": encoding}) for encoding in encodings
    ]
    responses = await asyncio.gather(*requests)
    assert {response.text for response in responses} == {responses[0].text}
    openapi.assert_called_once_with()
