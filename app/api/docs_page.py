"""The documentation: the OpenAPI document, its text, and pages that load nothing from elsewhere.

The scripts come from fastapi-offline's wheel. Its pages are not used, because they contain inline
scripts, which a strict content security policy blocks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import PurePath

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.api.guide import plain_text
from app.api.headers import path_prefix
from app.api.limit_docs import ASSETS_PATH
from app.api.prepared import PreparedContent
from app.api.state import API

OPENAPI_PATH = "/openapi.json"

ASSET_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable"}
"""Headers of the assets. Their addresses contain a hash of the content, which never changes."""

PAGE_HEADERS = {
    # The addresses of a page's assets change with a release.
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    # For browsers that do not support `frame-ancestors`.
    "X-Frame-Options": "DENY",
}

SAMPLE_NOTICE = "These figures are sample data, to try the service: they are made up."

_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
)
_POLICIES = {
    "/docs": f"{_POLICY}style-src 'self'",
    # Redoc inserts styles into the page, and searches in a worker.
    "/redoc": f"{_POLICY}style-src 'self' 'unsafe-inline'; worker-src blob:",
}

_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

_SOURCES = {
    "app.api": ("swagger.js", "redoc.js", "page.css", "icon.svg"),
    "fastapi_offline": ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js"),
}
"""Files in the folder `static` of each package."""

_REDOC_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
"""Picture that Redoc would load from another server. An empty one replaces it."""

_NO_LOGO = b"data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22/%3E"

# All addresses are relative, so the pages work behind a proxy that adds a prefix.
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{icon}">
{styles}</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript. Its content is in <a href="docs.md">docs.md</a>.\
</noscript>
{scripts}</body>
</html>
"""


@dataclass(frozen=True)
class Asset:
    file_name: str
    content: PreparedContent


@cache
def _assets() -> dict[str, Asset]:
    """Read all assets, once per process, and return them by the name of their source."""
    assets = {}
    for package, names in _SOURCES.items():
        for name in names:
            content = files(package).joinpath("static", name).read_bytes()
            content = content.replace(_REDOC_LOGO, _NO_LOGO)
            stem, suffix = PurePath(name).stem, PurePath(name).suffix
            file_name = f"{stem}-{sha256(content).hexdigest()[:16]}{suffix}"
            prepared = PreparedContent(partial(bytes, content), _MEDIA_TYPES[suffix], ASSET_HEADERS)
            assets[name] = Asset(file_name, prepared)
    return assets


def _page(title: str, *names: str) -> str:
    """Return a page with these scripts and styles."""
    assets = _assets()
    addresses = [f"assets/{assets[name].file_name}" for name in names]
    return _PAGE.format(
        title=escape(title),
        icon=f"assets/{assets['icon.svg'].file_name}",
        styles="".join(
            f'<link rel="stylesheet" href="{address}">\n'
            for address in addresses
            if address.endswith(".css")
        ),
        scripts="".join(
            f'<script src="{address}"></script>\n'
            for address in addresses
            if address.endswith(".js")
        ),
    )


def install(app: API) -> None:
    """Serve the documentation from memory, and redirect from `/api` to its first page."""
    scripts = {
        "/docs": ("swagger-ui.css", "page.css", "swagger-ui-bundle.js", "swagger.js"),
        "/redoc": ("page.css", "redoc.standalone.js", "redoc.js"),
    }
    document = PreparedContent(lambda: orjson.dumps(app.openapi()), "application/json")
    contents = {OPENAPI_PATH: (document, document)}
    for path, names in scripts.items():
        headers = {**PAGE_HEADERS, "Content-Security-Policy": _POLICIES[path]}
        page = partial(_page, app.title, *names)
        contents[path] = _with_notice(page, "<body>\n", "<body>\n<p>%s</p>\n", "text/html", headers)
    for path, variants in contents.items():
        app.add_route(path, partial(_respond, variants), include_in_schema=False)

    @lru_cache(maxsize=16)
    def text(prefix: str) -> Variants:
        return _with_notice(
            lambda: plain_text(app.openapi(), prefix), "", "%s\n\n", "text/plain", {}
        )

    async def respond_text(request: Request) -> Response:
        return await _respond(text(path_prefix.get()), request)

    for path in ("/docs.md", "/llms.txt"):
        app.add_route(path, respond_text, include_in_schema=False)
    for path, location in {"/api": "docs", "/api/": "../docs"}.items():
        app.add_route(path, partial(_redirect, location), include_in_schema=False)
    assets = {asset.file_name: asset.content for asset in _assets().values()}

    async def asset(request: Request) -> Response:
        found = assets.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return await found.respond(request)

    app.add_route(f"{ASSETS_PATH}{{name}}", asset, include_in_schema=False)


Variants = tuple[PreparedContent, PreparedContent]
"""A page of real data, and the same page of sample data."""


def _with_notice(
    create: Callable[[], str], place: str, notice: str, media_type: str, headers: Mapping[str, str]
) -> Variants:
    """Return both variants of a page. In that of sample data, `notice` replaces the `place`."""

    def noticed() -> bytes:
        return create().replace(place, notice % SAMPLE_NOTICE, 1).encode()

    return (
        PreparedContent(lambda: create().encode(), media_type, headers),
        PreparedContent(noticed, media_type, headers),
    )


async def _respond(variants: Variants, request: Request) -> Response:
    assert isinstance(request.app, API)
    publication = request.app.service_state.publication()
    return await variants[bool(publication and publication.is_sample)].respond(request)


async def _redirect(location: str, _: Request) -> Response:
    return RedirectResponse(location)
