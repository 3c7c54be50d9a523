"""What the routes of the endpoints have in common."""

from collections.abc import Callable
from contextlib import suppress

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.dependencies import Repositories, UnambiguousRoute, normalised, repositories_of
from app.api.fixed_headers import DATA_AS_OF
from app.api.formats import accepted_format
from app.api.questions import Endpoint, Endpoints, Question, Rendered
from app.downloads import Publication, Window
from app.errors import (
    NothingPublishedError,
    OtherPublicationError,
    PackageNotFoundError,
    StatsError,
)

RENDERING = "1"
"""Part of every tag. Change it when the same data is rendered to other bytes."""


def route_of(router: APIRouter, name: str) -> UnambiguousRoute:
    """The router's route whose function has this name."""
    (route,) = (
        one for one in router.routes if isinstance(one, UnambiguousRoute) and one.name == name
    )
    return route


def not_found(package: str) -> PackageNotFoundError:
    return PackageNotFoundError(f"There is no package {package!r} with downloads in the days held.")


async def answered(
    repositories: Repositories,
    ask: Callable[[Window], tuple[Endpoint, Question]],
    expected: Publication | None,
) -> tuple[Rendered, Publication]:
    """The answer to what is asked of a window, and the publication that it was computed from.

    As a rule that is the expected one, and one query is enough. If the query saw another one, since
    a publish was committed meanwhile or since several replicas share an address, the publication
    and the answer are read in one snapshot.
    """
    if expected:
        with suppress(OtherPublicationError):
            return await _answered(repositories.at(expected), ask, expected)
    async with repositories.snapshot() as one_state:
        publication = await one_state.downloads.publication()
        if publication is None:
            raise NothingPublishedError
        return await _answered(one_state, ask, publication)


async def _answered(
    repositories: Repositories,
    ask: Callable[[Window], tuple[Endpoint, Question]],
    publication: Publication,
) -> tuple[Rendered, Publication]:
    endpoint, question = ask(publication.window)
    try:
        return await endpoint.answer(repositories, question, publication), publication
    except StatsError as error:
        error.data_as_of = publication.latest_day
        raise


async def respond(request: Request, package: str | None = None) -> Response:
    """Answer as `HTTPCacheMiddleware` does for most requests before they come here: this says what
    is wrong with a request, and answers while the process does not know the publication.
    """
    if package is not None:
        normalised(package)
    endpoints: Endpoints = request.app.state.endpoints
    found = endpoints.at(request.url.path)
    assert found
    endpoint, name = found
    accepted = accepted_format(request.headers.get("accept", "").encode("latin-1"))

    def ask(window: Window) -> tuple[Endpoint, Question]:
        return endpoint, endpoint.question(name, request.scope["query_string"], window, accepted)

    rendered, publication = await answered(
        repositories_of(request), ask, request.app.state.freshness.publication
    )
    headers = {
        "content-type": rendered.media_type.decode(),
        DATA_AS_OF: str(publication.latest_day),
    }
    return Response(rendered.body, headers=headers)
