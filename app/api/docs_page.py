"""The documentation: the OpenAPI document, its text, and pages that load no other site's files.

The scripts come from fastapi-offline's wheel. Its pages are not used, because they contain inline
scripts, which a strict content security policy blocks.
"""

from collections.abc import Callable
from functools import cache, lru_cache, partial
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.api.guide import plain_text
from app.api.headers import path_prefix
from app.api.limit_rules import ASSETS_PATH
from app.api.prepared import PreparedContent
from app.api.state import API

OPENAPI_PATH = "/openapi.json"

PAGES = {
    "/docs": ("swagger-ui.css", "page.css", "swagger-ui-bundle.js", "swagger.js"),
    "/redoc": ("page.css", "redoc.standalone.js", "redoc.js"),
}
"""Styles and scripts of each page."""

ASSET_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable"}
"""Headers of the assets. Their addresses contain a hash, so that their content never changes."""

PAGE_HEADERS = {
    # A release changes the addresses of a page's assets.
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    # For browsers that do not support `frame-ancestors`.
    "X-Frame-Options": "DENY",
}

SAMPLE_NOTICE = "These figures are made up: they are sample data for trying the service."

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
"""Picture that Redoc would load from another server. `_NO_LOGO` replaces it."""

_NO_LOGO = b"data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22/%3E"


@cache
def _assets() -> dict[str, tuple[str, PreparedContent]]:
    """Return hashed names and contents of all assets, by the name of their source."""
    assets = {}
    for package, names in _SOURCES.items():
        for name in names:
            content = files(package).joinpath("static", name).read_bytes()
            content = content.replace(_REDOC_LOGO, _NO_LOGO)
            stem, suffix = PurePath(name).stem, PurePath(name).suffix
            hashed = f"{stem}-{sha256(content).hexdigest()[:16]}{suffix}"
            prepared = PreparedContent(partial(bytes, content), _MEDIA_TYPES[suffix], ASSET_HEADERS)
            assets[name] = hashed, prepared
    return assets


def _page(title: str, path: str) -> str:
    # All addresses are relative, so the pages work behind a proxy that adds a prefix.
    addresses = {name: f"assets/{hashed}" for name, (hashed, _) in _assets().items()}
    used = [addresses[name] for name in PAGES[path]]
    styles = [f'<link rel="stylesheet" href="{one}">' for one in used if one.endswith(".css")]
    scripts = [f'<script src="{one}"></script>' for one in used if one.endswith(".js")]
    page = files("app.api").joinpath("static", "page.html").read_text(encoding="utf-8")
    return page.format(
        title=escape(title),
        icon=addresses["icon.svg"],
        styles="\n".join(styles),
        scripts="\n".join(scripts),
    )


def install(app: API) -> None:
    """Serve the documentation from memory, and redirect from `/api` to its first page."""

    def add(
        path: str,
        create: Callable[..., str],
        placeholder: str,
        notice: str,
        *,
        has_prefix: bool,
        **options: Any,
    ) -> None:
        """Serve a text. It may depend on the prefix that a proxy has removed. If the data is the
        sample, the notice replaces the first occurrence of the placeholder.
        """

        def render(is_sample: bool, *prefix: str) -> bytes:
            text = create(*prefix)
            return (text.replace(placeholder, notice, 1) if is_sample else text).encode()

        @lru_cache(maxsize=16)
        def content(*variant: Any) -> PreparedContent:
            return PreparedContent(partial(render, *variant), **options)

        async def respond(request: Request) -> Response:
            publication = app.service_state.publication()
            is_sample = bool(publication and publication.is_sample)
            prefix = (path_prefix.get(),) if has_prefix else ()
            return await content(is_sample, *prefix).respond(request)

        app.add_route(path, respond, include_in_schema=False)

    for path, policy in _POLICIES.items():
        add(
            path,
            partial(_page, app.title, path),
            *("<body>\n", f"<body>\n<p>{SAMPLE_NOTICE}</p>\n"),
            has_prefix=False,
            media_type="text/html",
            headers={**PAGE_HEADERS, "Content-Security-Policy": policy},
        )
    for path in ("/docs.md", "/llms.txt"):
        add(
            path,
            lambda prefix: plain_text(app.openapi(), prefix),
            *("", f"{SAMPLE_NOTICE}\n\n"),
            has_prefix=True,
            media_type="text/plain",
        )
    document = PreparedContent(lambda: orjson.dumps(app.openapi()), "application/json")
    app.add_route(OPENAPI_PATH, document.respond, include_in_schema=False)
    for path, location in {"/api": "docs", "/api/": "../docs"}.items():
        app.add_route(path, partial(_redirect, location), include_in_schema=False)
    assets = dict(_assets().values())

    async def asset(request: Request) -> Response:
        found = assets.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return await found.respond(request)

    app.add_route(f"{ASSETS_PATH}{{name}}", asset, include_in_schema=False)


async def _redirect(location: str, _: Request) -> Response:
    return RedirectResponse(location)
