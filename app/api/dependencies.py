"""What routes are given: the repository, and arguments that are right.

Called by the routes themselves: FastAPI's own way of providing them takes as long as the query.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Path, Request, Response
from fastapi.routing import APIRoute

from app.db.downloads_repository import DownloadsRepository
from app.errors import ArgumentError, InvalidArgumentsError, PackageNotFoundError
from app.package_name import ALL_PACKAGES, MAX_NAME_CHARACTERS, is_valid, normalise

PackageArgument = Annotated[
    str,
    Path(
        description="Name of the package in any spelling, or `__all__` for every package together.",
        examples=["requests"],
    ),
]


def repository_of(request: Request) -> DownloadsRepository:
    repository: DownloadsRepository = request.app.state.repository
    return repository


def normalised(package: str) -> str:
    """Raises `PackageNotFoundError` for what can be no name."""
    name = normalise(package)
    if name != ALL_PACKAGES and not is_valid(name):
        raise PackageNotFoundError(
            f"No package can have this name: names are up to {MAX_NAME_CHARACTERS} letters, "
            "digits, '-', '_' and '.', with a letter or digit at both ends."
        )
    return name


class UnambiguousRoute(APIRoute):
    """A route whose arguments may be repeated, but not contradict themselves."""

    @property
    def argument_names(self) -> list[str]:
        return [argument.alias for argument in self.dependant.query_params]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def check_and_handle(request: Request) -> Response:
            if request.scope["query_string"]:
                self._reject_ambiguous(request)
            return await handle(request)

        return check_and_handle

    def _reject_ambiguous(self, request: Request) -> None:
        ambiguous = [
            ArgumentError(name, "should have one value, and was given several")
            for name in self.argument_names
            if len(set(request.query_params.getlist(name))) > 1
        ]
        if ambiguous:
            raise InvalidArgumentsError(ambiguous)
