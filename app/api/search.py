"""Search for packages by the beginning of their name, or by a misspelt name."""

import re
from typing import Annotated, Literal

from fastapi import Query
from pydantic import AfterValidator, BaseModel, Field

from app.api.endpoints import EndpointRouter
from app.api.payloads import PackageField, Payload, RenderedBody, example_config
from app.api.queries import EndpointQuery, WholeNumber
from app.api.rankings import is_round
from app.api.statistics import Statistics
from app.domain.package_name import MAX_NAME_CHARACTERS
from app.domain.rankings import POPULAR_PACKAGES, START, UNRANKED, SearchPosition, Tier

router = EndpointRouter("/api", "rankings")

_BEHIND_NAMES = re.compile("[^a-z0-9_.-]+$")
_NOT_IN_NAMES = re.compile("[^a-z0-9]+")
_CURSOR = re.compile(rf"([0-2]):(0|[1-9][0-9]{{0,9}}):([a-z0-9-]{{1,{MAX_NAME_CHARACTERS}}})")


class SearchResult(BaseModel):
    """A package, and its downloads in the latest 30 days, known mirrors excluded."""

    last_month: int = Field(description="Downloads in 30 days.", ge=0)
    package: PackageField
    rank: int | None = Field(
        description="Rank by these downloads, among all packages. Null without downloads, and if "
        "this instance follows only some packages.",
        ge=1,
    )


class SearchResults(Payload):
    """One page of the packages that a search found."""

    model_config = example_config(
        {
            "data": [
                {"last_month": 1181283420, "package": "requests", "rank": 4},
                {"last_month": 98101202, "package": "requests-oauthlib", "rank": 131},
            ],
            "next_cursor": "1:131:requests-oauthlib",
            "type": "search_results",
        }
    )

    data: list[SearchResult] = Field(
        description="Ordered by the kind of match, and then by downloads."
    )
    next_cursor: str | None = Field(description="Cursor of the next page. Null on the last one.")
    type: Literal["search_results"]


def beginning_of_name(text: str) -> str:
    """Normalise the beginning of a name. Raises `ValueError` if it contains no letter or digit.

    Characters before the first letter or digit are dropped. After the last one, only characters
    that names can contain count: `flask-` differs from `flask`, and `flask!` does not.
    """
    # Lower ASCII letters only, for the reason that `lower_ascii` gives.
    lower = "".join(character.lower() if character.isascii() else "-" for character in text)
    ending = _BEHIND_NAMES.sub("", lower)
    beginning = _NOT_IN_NAMES.sub("-", ending).removeprefix("-")
    if not beginning:
        raise ValueError("should have a letter from a to z or a digit")
    return beginning


def cursor_of(position: SearchPosition) -> str:
    """Return the cursor for the results after a position."""
    return f"{position.tier:d}:{position.rank}:{position.package}"


def parse_cursor(cursor: str) -> SearchPosition:
    """Return the position of a cursor. Raises `ValueError` for other texts."""
    match = _CURSOR.fullmatch(cursor)
    if match is None or int(match[2]) > UNRANKED:
        raise ValueError("should be the next_cursor of another page")
    return SearchPosition(Tier(int(match[1])), int(match[2]), match[3])


def _check_cursor(cursor: str) -> str:
    parse_cursor(cursor)
    return cursor


class SearchQuery(EndpointQuery):
    q: Annotated[str, AfterValidator(beginning_of_name)] = Field(
        description="Beginning of a name in any spelling, or a misspelt name.",
        examples=["reqeusts"],
        min_length=1,
        max_length=MAX_NAME_CHARACTERS,
        json_schema_extra={"pattern": "[a-zA-Z0-9]"},
    )
    limit: WholeNumber = Field(20, description="Maximum number of packages per page.", ge=1, le=100)
    cursor: Annotated[str, AfterValidator(_check_cursor)] | None = Field(
        None, description="The `next_cursor` of the previous page of the same search."
    )


@router.endpoint(
    "/search",
    SearchResults,
    summary="Packages by the beginning of their name, or by a similar name",
    description="Returns the package with exactly this name, then packages whose names begin with "
    "it, then packages with similar names. Each group is ordered by downloads. Similar names are "
    f"searched among the {POPULAR_PACKAGES:,} packages with the most downloads: `reqeusts` finds "
    "`requests`.\n\n"
    "The pages together contain each package once, unless a day is published meanwhile. A cursor "
    "from before a publish continues at the same rank, so a package whose rank passed it may be "
    "missing or appear twice.",
)
async def search(query: Annotated[SearchQuery, Query()], statistics: Statistics) -> RenderedBody:
    after = parse_cursor(query.cursor) if query.cursor else START
    # Read one more than requested, to find out if there is another page.
    matches = await statistics.rankings.search(
        query.q, query.limit + 1, after, by_trigrams=statistics.publication.has_trigrams
    )
    page = matches[: query.limit]
    is_ranked = statistics.publication.followed is None
    data = [
        SearchResult(
            last_month=one.last_month,
            package=one.position.package,
            rank=one.rank if is_ranked else None,
        )
        for one in page
    ]
    following = cursor_of(page[-1].position) if len(matches) > query.limit else None
    payload = SearchResults(data=data, next_cursor=following, type="search_results")
    # Clients can invent any number of similar names and cursors.
    is_beginning = bool(page) and page[0].position.tier < Tier.SIMILAR
    is_cacheable = is_beginning and not query.cursor and is_round(query.limit)
    return RenderedBody(payload.to_json(), is_cacheable=is_cacheable)
