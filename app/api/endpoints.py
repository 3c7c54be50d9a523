"""Data endpoints. A decorated handler declares each of them.

The decorator names a path and a payload model, and the handler's signature a query model. FastAPI
documents them, `Endpoints.parse` validates requests by the same query model, and the canonical form
of the query is the cache key. The dispatcher calls the handler itself, because FastAPI's routing
and dependency resolution take longer than the database query.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, NamedTuple, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Path
from pydantic import AfterValidator, TypeAdapter, ValidationError

from app.api.payloads import Payload, RenderedBody
from app.api.problem_details import MEANINGS, status_docs
from app.api.queries import FORMAT, EndpointQuery, NoQuery, invalid_arguments
from app.api.statistics import Statistics
from app.domain.downloads import Publication, ServedRanges
from app.domain.package_name import ALL_PACKAGES, MAX_NAME_CHARACTERS, is_valid, normalise
from app.errors import NotFoundError

RENDERING_VERSION = "1"
"""Part of every `ETag`. Increment it when a change of the code renders equal data differently."""

PARSED_URLS = 500
"""Size of the LRU that maps raw URLs to parsed requests (at most 15 MB). Parsing takes 20 µs."""

MAX_SHOWN_PACKAGES = 20
"""Maximum number of followed packages that an error lists."""

MAX_PARSED_URL_BYTES = 4096
"""Maximum length of a URL in the LRU. A request for a hundred packages usually fits."""


def _normalised(package: str) -> str:
    name = normalise(package)
    if name != ALL_PACKAGES and not is_valid(name):
        raise NotFoundError(
            f"No package can have this name: names have up to {MAX_NAME_CHARACTERS} letters, "
            "digits, '-', '_' and '.', with a letter or digit at both ends."
        )
    return name


Package = Annotated[
    str,
    AfterValidator(_normalised),
    Path(
        description="Name of the package in any spelling, or `__all__` for every package together.",
        examples=["requests"],
    ),
]

Handler = Callable[..., Awaitable[RenderedBody]]


@dataclass(frozen=True)
class Endpoint:
    """A path template, the handler that answers it, and the models of its payload and query."""

    path: str
    handler: Handler
    payload: type[Payload]
    query: type[EndpointQuery]
    path_arguments: Mapping[str, TypeAdapter[Any]]
    """Types of the arguments in the path, in the path's order."""

    @cached_property
    def has_formats(self) -> bool:
        """True if the response's format depends on an argument or the `Accept` header."""
        return FORMAT in self.query.model_fields

    def parse_path(self, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Validate the arguments in a path.

        Raises `NotFoundError` and `InvalidArgumentsError`.
        """
        parsed = {}
        for name, value in arguments.items():
            try:
                parsed[name] = self.path_arguments[name].validate_python(value)
            except ValidationError as error:
                raise invalid_arguments(error, name) from None
        return parsed


class ParsedRequest(NamedTuple):
    """A request of an endpoint, with valid arguments."""

    endpoint: Endpoint
    path_arguments: Mapping[str, Any]
    query: EndpointQuery
    """Query in canonical form."""

    target: bytes
    """Path and query in canonical form: equal requests have equal targets."""

    @property
    def has_unbounded_arguments(self) -> bool:
        """True if clients can invent any number of different requests like this one."""
        arbitrary = self.query.unbounded_arguments
        return bool(arbitrary) and any(name in arbitrary for name, _ in self.query.arguments())

    async def answer(self, statistics: Statistics) -> RenderedBody:
        """Call the endpoint's handler. Raises a `RequestError`."""
        check_followed(self.path_arguments.get("package"), statistics.publication)
        arguments = {**self.path_arguments, "statistics": statistics}
        if self.endpoint.query is not NoQuery:
            arguments["query"] = self.query
        return await self.endpoint.handler(**arguments)


class EndpointRouter(APIRouter):
    """A router whose `endpoint` decorator declares data endpoints."""

    def __init__(self, prefix: str, tag: str) -> None:
        super().__init__(prefix=prefix)
        self._tag = tag
        self.endpoints: list[Endpoint] = []

    def endpoint(
        self,
        path: str,
        payload: type[Payload],
        *,
        ok_docs: Mapping[str, Any] | None = None,
        errors: Iterable[int] = (),
        not_found: str | None = None,
        **documentation: Any,
    ) -> Callable[[Handler], Handler]:
        """Declare an endpoint that the decorated handler answers.

        The handler takes the path's parameters, optionally `query: Annotated[Model, Query()]`, and
        `statistics`. `ok_docs` extends the documentation of status 200, `errors` are statuses
        besides the usual ones, `not_found` describes a 404 that is not that of a package, and
        FastAPI's `add_api_route` receives `documentation`.
        """

        def declare(handler: Handler) -> Handler:
            signature = inspect.signature(handler, eval_str=True)
            parameters = dict(signature.parameters)
            del parameters["statistics"]
            # Hide `statistics` from FastAPI, which would document it as an argument of requests.
            # Functions have this attribute, but the type of a callable does not.
            handler.__signature__ = signature.replace(  # type: ignore[attr-defined]
                parameters=list(parameters.values())
            )
            query = parameters.pop("query", None)
            statuses = {206, 304, 416, 429, 500, 503, *errors}
            if query:
                statuses |= {422}
            if "package" in parameters:
                statuses |= {404, 422}
            if not_found:
                statuses |= {404}
            error_docs = status_docs(*sorted(statuses), not_found=not_found or MEANINGS[404])
            self.add_api_route(
                path,
                handler,
                response_model=payload,
                responses={**({200: dict(ok_docs)} if ok_docs else {}), **error_docs},
                **{
                    "operation_id": f"get_{handler.__name__}",
                    "tags": [self._tag],
                    **documentation,
                },
            )
            self.endpoints.append(
                Endpoint(
                    self.prefix + path,
                    handler,
                    payload,
                    get_args(query.annotation)[0] if query else NoQuery,
                    {name: TypeAdapter(one.annotation) for name, one in parameters.items()},
                )
            )
            return handler

        return declare


class Endpoints:
    """All data endpoints of the service. `parse` finds the one of a request."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._all = tuple(endpoints)
        # A path without arguments takes precedence over a template that matches it, too.
        self._by_positions: dict[tuple[int, ...], dict[tuple[str, ...], Endpoint]] = {(): {}}
        for endpoint in self._all:
            segments = endpoint.path.split("/")
            positions = tuple(
                position for position, one in enumerate(segments) if one.startswith("{")
            )
            self._by_positions.setdefault(positions, {})[_blanked(segments, positions)] = endpoint
        self._cached = lru_cache(PARSED_URLS)(self._parse)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._all)

    def parse(
        self, path: str, query: bytes, served: ServedRanges, accepted_format: str | None
    ) -> ParsedRequest | None:
        """Parse a request. Return None if no endpoint has this path.

        Raises `NotFoundError` for a name that no package can have, and `InvalidArgumentsError`.
        """
        is_short = len(path) + len(query) <= MAX_PARSED_URL_BYTES
        parse = self._cached if is_short else self._parse
        return parse(path, query, served, accepted_format)

    def at(self, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        """Return the endpoint of a request's path and the arguments in the path, or None."""
        segments = path.split("/")
        for positions, endpoints in self._by_positions.items():
            if not positions or positions[-1] < len(segments):
                endpoint = endpoints.get(_blanked(segments, positions))
                values = [segments[position] for position in positions]
                if endpoint and all(values):
                    return endpoint, dict(zip(endpoint.path_arguments, values, strict=True))
        return None

    def _parse(
        self, path: str, query: bytes, served: ServedRanges, accepted_format: str | None
    ) -> ParsedRequest | None:
        found = self.at(path)
        if found is None:
            return None
        endpoint, in_path = found
        path_arguments = endpoint.parse_path(in_path)
        parsed = endpoint.query.parse(query, accepted_format).canonical(served)
        target = endpoint.path.format(**path_arguments)
        arguments = parsed.arguments()
        if arguments:
            target = f"{target}?{urlencode(arguments)}"
        return ParsedRequest(endpoint, path_arguments, parsed, target.encode())


def _blanked(segments: list[str], positions: Iterable[int]) -> tuple[str, ...]:
    blanked = segments.copy()
    for position in positions:
        blanked[position] = ""
    return tuple(blanked)


def check_followed(package: str | None, publication: Publication) -> None:
    """Raise `NotFoundError` if the instance follows only other packages."""
    followed = publication.followed
    if package is None or followed is None or package in followed:
        return
    if not followed:
        scope = "packages whose days are not published yet"
    elif len(followed) <= MAX_SHOWN_PACKAGES:
        scope = f"only these packages: {', '.join(followed)}"
    else:
        scope = f"only {len(followed):,} packages, which /api/status lists"
    what = "all packages together" if package == ALL_PACKAGES else repr(package)
    raise NotFoundError(f"There are no figures of {what}: this instance follows {scope}.")


def never_downloaded(package: str) -> NotFoundError:
    """Return the error for a package without downloads on any known day."""
    return NotFoundError(f"There is no package {package!r} with downloads on any known day.")


async def not_found(package: str, statistics: Statistics) -> NotFoundError:
    """Return the error for a package without downloads in the days served."""
    detail = f"There is no package {package!r} with downloads in the days served."
    known = statistics.publication.history_of([package])
    window = statistics.publication.window
    has_earlier = known.known_days[0] < window.first
    if has_earlier and await statistics.downloads.history(package, known):
        detail += f" /api/packages/{package}/history has its downloads in earlier months."
    return NotFoundError(detail)
