"""What routes are given: the repository, and arguments that are right.

All are coroutines, since FastAPI would run plain functions in threads.
"""

from typing import Annotated

from fastapi import Depends, Path, Request

from app.db.downloads_repository import DownloadsRepository
from app.errors import ArgumentError, InvalidArgumentsError, PackageNotFoundError
from app.package_name import ALL_PACKAGES, MAX_NAME_CHARACTERS, is_valid, normalise


async def _repository(request: Request) -> DownloadsRepository:
    repository: DownloadsRepository = request.app.state.repository
    return repository


Repository = Annotated[DownloadsRepository, Depends(_repository)]


async def _package(
    package: Annotated[
        str,
        Path(
            description="Name of the package in any spelling, or `__all__` for every package "
            "together.",
            examples=["requests"],
        ),
    ],
) -> str:
    normalised = normalise(package)
    if normalised != ALL_PACKAGES and not is_valid(normalised):
        raise PackageNotFoundError(
            f"No package can have this name: names are up to {MAX_NAME_CHARACTERS} letters, "
            "digits, '-', '_' and '.', with a letter or digit at both ends."
        )
    return normalised


PackageName = Annotated[str, Depends(_package)]


async def reject_ambiguous(request: Request) -> None:
    """An argument of the route may be repeated, but not contradict itself."""
    given = request.query_params
    route = request.scope["route"]
    ambiguous = [
        ArgumentError(argument.name, "should have one value, and was given several")
        for argument in route.dependant.query_params
        if len(set(given.getlist(argument.name))) > 1
    ]
    if ambiguous:
        raise InvalidArgumentsError(ambiguous)
