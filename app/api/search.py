"""Packages by a name that is known in part, or not quite."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.api.answering import respond, route_of
from app.api.dependencies import Repositories, UnambiguousRoute
from app.api.problem_details import documented
from app.api.questions import Argument, Endpoint, Question, Rendered, count, is_usual
from app.api.schemas import PackageField
from app.downloads import Publication, Window
from app.errors import ArgumentError, InvalidArgumentsError
from app.package_name import MAX_NAME_CHARACTERS
from app.rankings import POPULAR_PACKAGES, START, SearchPosition, Tier

DEFAULT_LIMIT = 20
MAX_LIMIT = 100

router = APIRouter(
    prefix="/api",
    tags=["rankings"],
    route_class=UnambiguousRoute,
    responses=documented(422, 429, 500, 503),
)

_BEHIND_NAMES = re.compile("[^a-z0-9_.-]+$")
_NOT_IN_NAMES = re.compile("[^a-z0-9]+")
_POSITION = re.compile(r"([0-2]):(\d{1,10}):([a-z0-9-]+)", re.ASCII)

EMPTY_TEXT = "should have a letter from a to z or a digit"


class SearchResult(BaseModel):
    """A package, and its downloads in the latest 30 days, known mirrors excluded."""

    last_month: int = Field(description="Downloads in 30 days.", ge=0)
    package: PackageField
    rank: int | None = Field(
        description="By those downloads, among all packages; null without any.", ge=1
    )


class SearchResults(BaseModel):
    """The packages that a search found, the first ones or those after a cursor."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": [
                        {"last_month": 1181283420, "package": "requests", "rank": 4},
                        {"last_month": 98101202, "package": "requests-oauthlib", "rank": 131},
                    ],
                    "next_cursor": "MToxMzE6cmVxdWVzdHMtb2F1dGhsaWI",
                    "type": "search_results",
                }
            ]
        }
    )

    data: list[SearchResult] = Field(
        description="The package of that name comes first, then those whose names begin so, then "
        "those whose names resemble it; all by downloads."
    )
    next_cursor: str | None = Field(description="Of the next page; null when this is the last.")
    type: Literal["search_results"]


@router.get(
    "/search",
    operation_id="get_search",
    summary="Packages by the beginning of a name, or nearly so",
    response_model=SearchResults,
    description="The package of that name, then those whose names begin so, then those whose names "
    f"resemble it, which are looked for among the {POPULAR_PACKAGES:,} with most downloads. All of "
    "them are ordered by downloads. `reqeusts` finds `requests`.\n\n"
    "While nothing is published, the pages add up to the whole, each package once. A cursor from "
    "before a publish goes on at the same rank: a package that passed it may be missed, or come "
    "twice.",
)
async def search(
    request: Request,
    q: Annotated[
        str,
        Query(
            description="The beginning of a name in any spelling, or a name misspelt.",
            examples=["reqeusts"],
            min_length=1,
            max_length=MAX_NAME_CHARACTERS,
            json_schema_extra={"pattern": "[a-zA-Z0-9]"},
        ),
    ],
    limit: Annotated[
        int | None,
        Query(
            description=f"Packages to a page, at most. {DEFAULT_LIMIT} when left out.",
            ge=1,
            le=MAX_LIMIT,
        ),
    ] = None,
    cursor: Annotated[
        str | None,
        Query(description="The `next_cursor` of the page before, of the same search."),
    ] = None,
) -> Response:
    return await respond(request)


async def _answer(
    repositories: Repositories, question: Question, publication: Publication
) -> Rendered:
    limit = int(question.get("limit") or DEFAULT_LIMIT)
    cursor = question.get("cursor")
    after = _position(cursor) if cursor else START
    # One more than is asked for tells whether there are more.
    matches = await repositories.rankings.search(
        question.get("q") or "", limit + 1, after, by_trigrams=publication.has_trigrams
    )
    page = matches[:limit]
    data = [
        {"last_month": one.last_month, "package": one.position.package, "rank": one.rank}
        for one in page
    ]
    following = cursor_of(page[-1].position) if len(matches) > limit else None
    body = orjson.dumps({"data": data, "next_cursor": following, "type": "search_results"})
    # What resembles a name can be made up without end, and so can the numbers of a cursor.
    is_beginning = bool(page) and page[0].position.tier < Tier.RESEMBLES
    return Rendered(body, is_kept=is_beginning and not cursor and is_usual(limit))


def beginning_of_name(text: str, _: Window) -> str:
    """As names are normalised, whatever is between letters and digits. What is in front of the
    first of them begins no name, and behind the last only what may be in names is more of one:
    `flask-` is not `flask`, and `flask!` is.
    """
    if not text:
        raise ValueError("should not be empty")
    if len(text) > MAX_NAME_CHARACTERS:
        raise ValueError(f"should have at most {MAX_NAME_CHARACTERS} characters")
    # Of ASCII letters alone: the Kelvin sign's lower case is the letter k.
    lower = "".join(character.lower() if character.isascii() else "-" for character in text)
    ending = _BEHIND_NAMES.sub("", lower)
    beginning = _NOT_IN_NAMES.sub("-", ending).removeprefix("-")
    if not beginning:
        raise ValueError(EMPTY_TEXT)
    return beginning


def cursor_of(position: SearchPosition) -> str:
    told = f"{position.tier:d}:{position.rank}:{position.package}".encode()
    return urlsafe_b64encode(told).decode().rstrip("=")


def _position(cursor: str) -> SearchPosition:
    """Raises `ValueError` for what is no cursor of ours."""
    try:
        told = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        told = ""
    match = _POSITION.fullmatch(told)
    if match and len(match[3]) <= MAX_NAME_CHARACTERS and int(match[2]) < 2**31:
        position = SearchPosition(Tier(int(match[1])), int(match[2]), match[3])
        # One spelling each: the decoder skips what it does not know.
        if cursor_of(position) == cursor:
            return position
    raise ValueError("should be the next_cursor of another page")


def _cursor(value: str, _: Window) -> str:
    return cursor_of(_position(value))


def _check_text(values: Mapping[str, Sequence[str]]) -> None:
    if not values.get("q"):
        raise InvalidArgumentsError([ArgumentError("q", "should be given")])


ENDPOINTS = (
    Endpoint(
        "/api/search",
        route_of(router, "search"),
        _answer,
        (
            Argument("q", beginning_of_name),
            count("limit", MAX_LIMIT, DEFAULT_LIMIT),
            Argument("cursor", _cursor),
        ),
        _check_text,
    ),
)
