"""The documentation pages, which load nothing from elsewhere: Swagger UI and Redoc.

Their scripts are those in fastapi-offline's wheel. Its pages are not used, since a strict content
security policy runs no script that stands in the page.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import PurePath

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.compression import compressed
from app.api.negotiation import preferred_encoding

ASSETS_PATH = "/assets/"

ASSET_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Vary": "Accept-Encoding",
}
"""An asset's address has the hash of its content, so what it answers is right for ever."""

PAGE_HEADERS = {
    # Its assets' addresses change with the release.
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    # For browsers that do not know `frame-ancestors`.
    "X-Frame-Options": "DENY",
}

_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
)
_POLICIES = {
    "/docs": f"{_POLICY}style-src 'self'",
    # It writes its styles as it goes, and searches in a worker.
    "/redoc": f"{_POLICY}style-src 'self' 'unsafe-inline'; worker-src blob:",
}

_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

_SOURCES = {
    "app.api": ("swagger.js", "redoc.js", "page.css", "icon.svg"),
    "fastapi_offline": ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js"),
}
"""By package: files of its folder `static`."""

_REDOC_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
"""Redoc asks its maker's server for this picture. It gets an empty one, with no request."""
_NO_LOGO = b"data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22/%3E"

# Every address is relative, so the pages work behind a proxy's prefix that they are not told of.
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
<noscript>This page needs JavaScript. What it shows is in <a href="openapi.json">openapi.json</a>.\
</noscript>
{scripts}</body>
</html>
"""


@dataclass(frozen=True)
class Asset:
    file_name: str
    content: bytes
    media_type: str


@cache
def _assets() -> dict[str, Asset]:
    """By file name, read once a process."""
    assets = {}
    for package, names in _SOURCES.items():
        for name in names:
            content = files(package).joinpath("static", name).read_bytes()
            content = content.replace(_REDOC_LOGO, _NO_LOGO)
            stem, suffix = PurePath(name).stem, PurePath(name).suffix
            file_name = f"{stem}-{sha256(content).hexdigest()[:16]}{suffix}"
            assets[name] = Asset(file_name, content, _MEDIA_TYPES[suffix])
    return assets


@cache
def _encoded(asset: Asset, encoding: str) -> bytes:
    """Compressed once, since it takes a while."""
    return compressed(asset.content, encoding) if encoding else asset.content


def _page(title: str, *names: str) -> bytes:
    """A page with these scripts and styles."""
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
    ).encode()


def install(app: FastAPI) -> None:
    """Serve the pages and their assets. Nothing is looked up on the disk for a request."""
    pages = {
        "/docs": _page(
            app.title, "swagger-ui.css", "page.css", "swagger-ui-bundle.js", "swagger.js"
        ),
        "/redoc": _page(app.title, "page.css", "redoc.standalone.js", "redoc.js"),
    }
    for path, content in pages.items():
        headers = {**PAGE_HEADERS, "Content-Security-Policy": _POLICIES[path]}
        app.add_route(path, _answer(content, headers), include_in_schema=False)
    assets = {asset.file_name: asset for asset in _assets().values()}

    async def asset(request: Request) -> Response:
        found = assets.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        encoding = preferred_encoding(request.headers.get("accept-encoding", "").encode())
        headers = ASSET_HEADERS | ({"Content-Encoding": encoding} if encoding else {})
        content = await asyncio.to_thread(_encoded, found, encoding)
        return Response(content, headers=headers, media_type=found.media_type)

    app.add_route(f"{ASSETS_PATH}{{name}}", asset, include_in_schema=False)


def _answer(content: bytes, headers: dict[str, str]) -> Callable[[Request], Awaitable[Response]]:
    async def page(_: Request) -> Response:
        return Response(content, headers=headers, media_type="text/html")

    return page
