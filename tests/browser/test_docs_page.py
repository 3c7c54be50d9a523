"""The documentation pages in a real Chromium, in front of the real service, with no way out."""

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.processes import get

CHROMIUM = os.environ.get("CHROMIUM") or "/usr/bin/chromium"

FLAGS = [
    # Chromium's sandbox does not start as root, as which containers run it.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # No name leads anywhere, and no address but the service's.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

# Some violations are not told on the console.
TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
    console.error(`${event.violatedDirective} is violated by ${event.blockedURI}`));
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not os.access(CHROMIUM, os.X_OK):
        pytest.fail(
            f"there is no Chromium at {CHROMIUM}: `apt-get install chromium`, "
            "or set CHROMIUM to the path of one",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """Messages of the page's console and of its errors."""
    return []


@pytest.fixture
def requests() -> list[str]:
    """The addresses that the page asked for."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str], requests: list[str]) -> Iterator[Page]:
    page = browser.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.add_init_script(TELL_VIOLATIONS)
    yield page
    page.close()


def _own(requests: list[str], address: str) -> bool:
    # A script's own blob is no request over the network.
    return all(url.removeprefix("blob:").startswith(f"{address}/") for url in requests)


def test_swagger_ui_tries_an_endpoint(
    page: Page, address: str, complaints: list[str], requests: list[str]
) -> None:
    page.goto(f"{address}/docs")
    recent = page.locator("#operations-packages-get_recent")
    recent.locator(".opblock-summary-control").click()
    recent.get_by_role("button", name="Try it out").click()
    # Nobody has to think of a package first.
    expect(recent.locator("[data-param-name=package] input")).to_have_value("requests")
    recent.get_by_role("button", name="Execute").click()

    answer = recent.locator(".live-responses-table .response")
    expect(answer.locator(".response-col_status")).to_contain_text("200")
    shown = json.loads(answer.locator(".highlight-code code").first.inner_text())
    url = f"{address}/api/packages/requests/recent"
    assert shown == get(url).json()
    assert all(shown["data"][key] > 0 for key in ("last_day", "last_week", "last_month"))

    assert f"{url}?format=json" in requests
    assert _own(requests, address), requests
    assert complaints == []


def test_swagger_ui_is_filled_in_with_a_dump_that_exists(page: Page, address: str) -> None:
    page.goto(f"{address}/docs")
    dump = page.locator("#operations-dumps-get_dump")
    dump.locator(".opblock-summary-control").click()
    dump.get_by_role("button", name="Try it out").click()
    (listed,) = get(f"{address}/api/dumps").json()["data"]
    expect(dump.locator("[data-param-name=name] input")).to_have_value(listed["name"])


@pytest.fixture
def prefixed(address: str) -> Iterator[str]:
    """The service behind a proxy that takes a prefix away, and does not tell."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = get(address + self.path.removeprefix("/stats"))
            self.send_response(answer.status_code)
            for name in ("content-type", "content-security-policy"):
                self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/stats"
        server.shutdown()


def test_swagger_ui_tries_an_endpoint_below_a_prefix(
    page: Page, prefixed: str, requests: list[str]
) -> None:
    page.goto(f"{prefixed}/docs")
    health = page.locator("#operations-status-get_health")
    health.locator(".opblock-summary-control").click()
    health.get_by_role("button", name="Try it out").click()
    health.get_by_role("button", name="Execute").click()
    status = health.locator(".live-responses-table .response .response-col_status")
    expect(status).to_contain_text("200")
    assert f"{prefixed}/health" in requests


def test_all_operations_and_schemas_of_swagger_ui_expand(
    page: Page, address: str, complaints: list[str], requests: list[str]
) -> None:
    page.goto(f"{address}/docs")
    document = get(f"{address}/openapi.json").json()
    closed = page.locator(".opblock-summary-control[aria-expanded=false]")
    expect(closed).to_have_count(len(document["paths"]))
    # Together, because each operation that is open makes the next click slower.
    closed.evaluate_all("controls => controls.forEach(control => control.click())")
    expect(closed).to_have_count(0)
    page.locator(".models-control").click()
    expect(page.locator(".opblock-body")).to_have_count(len(document["paths"]))
    expect(page.locator(".models article")).to_have_count(len(document["components"]["schemas"]))
    expect(page.locator(".information-container")).to_contain_text("Series cover 30 days")
    assert _own(requests, address), requests
    assert complaints == []


def test_redoc_shows_and_finds_every_endpoint(
    page: Page, address: str, complaints: list[str], requests: list[str]
) -> None:
    page.goto(f"{address}/redoc")
    for path in get(f"{address}/openapi.json").json()["paths"]:
        expect(page.get_by_role("button", name=path).first).to_be_visible()
    expect(page.locator("#page")).to_contain_text("Series cover 30 days")
    # Its search runs in a worker, which a policy may forbid without a word.
    page.get_by_role("textbox").fill("operating system")
    expect(page.get_by_role("search").get_by_role("menuitem").first).to_contain_text(
        "operating system"
    )
    assert _own(requests, address), requests
    assert complaints == []


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_shows_it_in_a_frame(
    page: Page, address: str, path: str, complaints: list[str]
) -> None:
    with page.expect_event("console"):
        page.set_content(f'<iframe src="{address}{path}"></iframe>')
    (complaint,) = complaints
    assert "frame-ancestors 'none'" in complaint
    assert urlsplit(page.frames[1].url).scheme == "chrome-error"
