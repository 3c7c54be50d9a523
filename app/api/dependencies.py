"""What routes are given: the repositories, and arguments that are right.

Called by the routes themselves: FastAPI's own way of providing them takes as long as the query.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_origin

from fastapi import Path, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.downloads_repository import DownloadsRepository
from app.db.rankings_repository import RankingsRepository
from app.db.snapshot import snapshot
from app.downloads import Publication
from app.errors import ArgumentError, InvalidArgumentsError, PackageNotFoundError
from app.events import KnownEvents
from app.package_name import ALL_PACKAGES, MAX_NAME_CHARACTERS, is_valid, normalise

PackageArgument = Annotated[
    str,
    Path(
        description="Name of the package in any spelling, or `__all__` for every package together.",
        examples=["requests"],
    ),
]


@dataclass(frozen=True, slots=True)
class Repositories:
    engine: AsyncEngine
    downloads: DownloadsRepository
    rankings: RankingsRepository
    events: KnownEvents

    def at(self, publication: Publication) -> "Repositories":
        """The same, whose reads raise `OtherPublicationError` if they see another publication."""
        return self._with(self.engine, publication)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["Repositories"]:
        """The same, whose reads all see one state of the database."""
        async with snapshot(self.engine) as connection:
            yield self._with(connection)

    def _with(
        self, source: AsyncEngine | AsyncConnection, expected: Publication | None = None
    ) -> "Repositories":
        return replace(
            self,
            downloads=self.downloads.reading(source, expected),
            rankings=self.rankings.reading(source, expected),
        )


def repositories_of(request: Request) -> Repositories:
    repositories: Repositories = request.app.state.repositories
    return repositories


def normalised(package: str) -> str:
    """Raises `PackageNotFoundError` for what can be no name."""
    name = normalise(package)
    if name != ALL_PACKAGES and not is_valid(name):
        raise PackageNotFoundError(
            f"No package can have this name: names are up to {MAX_NAME_CHARACTERS} letters, "
            "digits, '-', '_' and '.', with a letter or digit at both ends."
        )
    return name


SEVERAL_VALUES = "should have one value, and was given several"


class UnambiguousRoute(APIRoute):
    """A route whose arguments may be repeated, but not contradict themselves."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def check_and_handle(request: Request) -> Response:
            if request.scope["query_string"]:
                self._reject_ambiguous(request)
            return await handle(request)

        return check_and_handle

    def _reject_ambiguous(self, request: Request) -> None:
        ambiguous = [
            ArgumentError(argument.alias, SEVERAL_VALUES)
            for argument in self.dependant.query_params
            if get_origin(argument.field_info.annotation) is not list
            and len(set(request.query_params.getlist(argument.alias))) > 1
        ]
        if ambiguous:
            raise InvalidArgumentsError(ambiguous)
