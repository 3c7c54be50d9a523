"""What the routes of the endpoints have in common."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.dependencies import UnambiguousRoute, normalised, repositories_of
from app.api.formats import accepted_format
from app.api.questions import Endpoints
from app.errors import NothingPublishedError, PackageNotFoundError

RENDERING = "1"
"""Another one whenever the same data is rendered to other bytes: every answer's tag tells it."""


def route_of(router: APIRouter, name: str) -> UnambiguousRoute:
    """The router's route whose function has this name."""
    (route,) = (
        one for one in router.routes if isinstance(one, UnambiguousRoute) and one.name == name
    )
    return route


def not_found(package: str) -> PackageNotFoundError:
    return PackageNotFoundError(f"There is no package {package!r} with downloads in the days held.")


async def respond(request: Request, package: str | None = None) -> Response:
    """As `HTTPCacheMiddleware` does for most requests, before they come here: says what is wrong
    with what is asked, and answers as long as it is not known what is published.
    """
    if package is not None:
        normalised(package)
    endpoints: Endpoints = request.app.state.endpoints
    found = endpoints.at(request.url.path)
    assert found
    endpoint, name = found
    repositories = repositories_of(request)
    publication = request.app.state.freshness.publication or (
        await repositories.downloads.publication()
    )
    if publication is None:
        raise NothingPublishedError
    accepted = accepted_format(request.headers.get("accept", "").encode("latin-1"))
    question = endpoint.question(name, request.scope["query_string"], publication.window, accepted)
    body, media_type, _ = await endpoint.answer(repositories, question, publication)
    return Response(body, headers={"content-type": media_type.decode()})
