"""Data endpoints: a decorated handler declares one, and everything else is derived from it.

A handler has a path, a query model and a payload model. FastAPI documents them,
`Endpoints.parse` validates requests against the same query model, and the canonical form of the
query is the cache key. The dispatcher calls the handler itself, because FastAPI's routing and
dependency resolution take longer than the database query.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar, NamedTuple, Self, get_args, get_origin
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from app.api.problem_details import documented
from app.api.statistics import Statistics
from app.domain.downloads import Window
from app.domain.package_name import ALL_PACKAGES, MAX_NAME_CHARACTERS, is_valid, normalise
from app.errors import ArgumentError, InvalidArgumentsError, NotFoundError

JSON = b"application/json"

FORMAT = "format"
"""Argument that takes precedence over the `Accept` header."""

RENDERING = "1"
"""Version of the rendering: part of every `ETag`. Change it when the same data renders to other
bytes.
"""

PARSED_URLS = 500
"""Size of the LRU that maps raw URLs to parsed requests (at most 15 MB). A flood of odd URLs only
evicts entries; parsing one again takes 10 to 20 µs.
"""

MAX_PARSED_URL_BYTES = 4096
"""Longest path and query that the LRU stores. A hundred packages with usual names are shorter."""

PACKAGE_PARAMETER = "package"

Package = Annotated[
    str,
    Path(
        description="Name of the package in any spelling, or `__all__` for every package together.",
        examples=["requests"],
    ),
]


def _check_digits(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch("[0-9]{1,18}", value):
        raise ValueError("should be a whole number, in digits")
    return value


WholeNumber = Annotated[int, BeforeValidator(_check_digits)]
"""A number in ASCII digits. Python also reads signs, spaces, `1_0` and digits of other scripts."""


class EndpointQuery(BaseModel):
    """The query arguments of an endpoint. Unknown arguments are ignored."""

    model_config = ConfigDict(frozen=True)

    arbitrary: ClassVar[frozenset[str]] = frozenset()
    """Names of the arguments whose values clients can make up without end."""

    def canonical(self, window: Window) -> Self:
        """Return the model to which all queries with the same answer are equal.

        `window` is the range of days that is served.
        """
        del window
        return self

    def arguments(self) -> list[tuple[str, str]]:
        """Return the arguments that differ from their defaults, in the model's order."""
        pairs: list[tuple[str, str]] = []
        for name, one in type(self).model_fields.items():
            value = getattr(self, name)
            if value != one.default:
                values = value if isinstance(value, tuple) else (value,)
                pairs += [(name, str(item)) for item in values]
        return pairs


class NoQuery(EndpointQuery):
    """The query of an endpoint without arguments."""


class Rendered(NamedTuple):
    """The body that a handler returns."""

    body: bytes
    media_type: bytes = JSON
    is_cacheable: bool = True
    """False if clients can request any number of such responses and no other client needs them."""


class Payload(BaseModel):
    """The payload of an endpoint. Its fields are declared in the order of the JSON keys."""

    def to_json(self) -> bytes:
        """Return the payload as JSON without whitespace."""
        return self.model_dump_json().encode()

    def render(self, *, is_cacheable: bool = True) -> Rendered:
        return Rendered(self.to_json(), is_cacheable=is_cacheable)


Handler = Callable[..., Awaitable[Rendered]]


@dataclass(frozen=True)
class Endpoint:
    """A path template, the handler that answers it, and the models of its payload and query."""

    path: str
    handler: Handler
    payload: type[Payload]
    query: type[EndpointQuery]

    @cached_property
    def has_formats(self) -> bool:
        """True if the response's format depends on an argument or the `Accept` header."""
        return FORMAT in self.query.model_fields

    @cached_property
    def repeated(self) -> frozenset[str]:
        """Names of the arguments that may have several values."""
        fields = self.query.model_fields.items()
        return frozenset(name for name, one in fields if get_origin(one.annotation) is tuple)

    def parse_path(self, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Validate the arguments in a path.

        Raises `NotFoundError` and `InvalidArgumentsError`.
        """
        return {
            name: _normalised(value) if name == PACKAGE_PARAMETER else self._parse_one(name, value)
            for name, value in arguments.items()
        }

    def _parse_one(self, name: str, value: str) -> object:
        annotation = inspect.signature(self.handler).parameters[name].annotation
        try:
            return TypeAdapter(annotation).validate_python(value)
        except ValidationError as error:
            raise InvalidArgumentsError([_argument_error(error.errors()[0], name)]) from None

    def parse_query(self, query: bytes, accepted_format: str | None) -> EndpointQuery:
        """Validate a query string.

        An empty argument counts as omitted, and the first value of a repeated argument counts.
        `accepted_format` applies where the query names no format. Raises `InvalidArgumentsError`.
        """
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else []
        values: dict[str, Any] = {}
        for name, value in pairs:
            if name in self.repeated:
                if value:
                    values.setdefault(name, []).append(value)
            else:
                values.setdefault(name, value)
        given = {name: value for name, value in values.items() if value}
        if not self.has_formats:
            check_json_format(given.get(FORMAT))
        elif accepted_format:
            given.setdefault(FORMAT, accepted_format)
        try:
            return self.query.model_validate(given)
        except ValidationError as error:
            raise InvalidArgumentsError(list(map(_argument_error, error.errors()))) from None


def _argument_error(error: ErrorDetails, name: str | None = None) -> ArgumentError:
    is_own = error["type"] == "value_error"
    message = str(error["ctx"]["error"]) if is_own else error["msg"]
    if error["type"] == "too_long":
        message = f"should have at most {error['ctx']['max_length']} values"
    return ArgumentError(name or str(error["loc"][0]), message)


async def require_json(request: Request) -> None:
    """Dependency of all routes that FastAPI answers."""
    check_json_format(request.query_params.get(FORMAT))


def check_json_format(value: str | None) -> None:
    """Raise `InvalidArgumentsError` if a response that is always JSON is requested otherwise."""
    if value and value.lower() != "json":
        raise InvalidArgumentsError([ArgumentError(FORMAT, "Input should be 'json'")])


class ParsedRequest(NamedTuple):
    """A request that an endpoint can answer."""

    endpoint: Endpoint
    path_arguments: Mapping[str, Any]
    query: EndpointQuery
    """In canonical form."""

    target: bytes
    """Path and query in canonical form: equal requests have equal targets."""

    @property
    def is_arbitrary(self) -> bool:
        """True if clients can make up any number of such requests that all have an answer."""
        arbitrary = self.query.arbitrary
        return bool(arbitrary) and any(name in arbitrary for name, _ in self.query.arguments())

    async def answer(self, statistics: Statistics) -> Rendered:
        """Call the endpoint's handler. Raises a `RequestError`."""
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
        name: str | None = None,
        summary: str,
        description: str | None = None,
        ok: Mapping[str, Any] | None = None,
        tag: str | None = None,
        errors: Iterable[int] = (),
    ) -> Callable[[Handler], Handler]:
        """Declare an endpoint that the decorated handler answers.

        The handler takes the path's parameters, optionally `query: Annotated[Model, Query()]`, and
        `statistics`. `ok` adds to the documentation of status 200, `errors` are statuses besides
        the usual ones, and `name` is used in the operation id instead of the handler's name.
        """

        def declare(handler: Handler) -> Handler:
            signature = inspect.signature(handler, eval_str=True)
            parameters = dict(signature.parameters)
            del parameters["statistics"]
            # FastAPI documents the parameters of clients only. Functions have this attribute, but
            # the type of a callable does not.
            handler.__signature__ = signature.replace(  # type: ignore[attr-defined]
                parameters=list(parameters.values())
            )
            query = (
                get_args(parameters["query"].annotation)[0] if "query" in parameters else NoQuery
            )
            statuses = {429, 500, 503, *errors}
            if query is not NoQuery:
                statuses |= {422}
            if PACKAGE_PARAMETER in parameters:
                statuses |= {404, 422}
            self.add_api_route(
                path,
                handler,
                operation_id=f"get_{name or handler.__name__}",
                summary=summary,
                tags=[tag or self._tag],
                description=description,
                response_model=payload,
                responses={**({200: dict(ok)} if ok else {}), **documented(*sorted(statuses))},
            )
            self.endpoints.append(Endpoint(self.prefix + path, handler, payload, query))
            return handler

        return declare


class Endpoints:
    """All data endpoints of the service, found by the paths of requests."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._all = tuple(endpoints)
        self._by_places: dict[tuple[int, ...], dict[tuple[str, ...], Endpoint]] = {}
        for endpoint in self._all:
            segments = endpoint.path.split("/")
            places = tuple(place for place, one in enumerate(segments) if one.startswith("{"))
            self._by_places.setdefault(places, {})[_blanked(segments, places)] = endpoint
        self._cached = lru_cache(PARSED_URLS)(self._parse)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._all)

    def parse(
        self, path: str, query: bytes, window: Window, accepted_format: str | None
    ) -> ParsedRequest | None:
        """Parse a request, whatever its spelling. Return None if no endpoint has this path.

        Raises `NotFoundError` for an impossible name, and `InvalidArgumentsError`.
        """
        is_short = len(path) + len(query) <= MAX_PARSED_URL_BYTES
        parse = self._cached if is_short else self._parse
        return parse(path, query, window, accepted_format)

    def at(self, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        """Return the endpoint of a request's path and the arguments in the path, or None."""
        segments = path.split("/")
        for places, endpoints in self._by_places.items():
            if not places or places[-1] < len(segments):
                endpoint = endpoints.get(_blanked(segments, places))
                values = [segments[place] for place in places]
                if endpoint and all(values):
                    names = (endpoint.path.split("/")[place][1:-1] for place in places)
                    return endpoint, dict(zip(names, values, strict=True))
        return None

    def _parse(
        self, path: str, query: bytes, window: Window, accepted_format: str | None
    ) -> ParsedRequest | None:
        found = self.at(path)
        if found is None:
            return None
        endpoint, in_path = found
        path_arguments = endpoint.parse_path(in_path)
        parsed = endpoint.parse_query(query, accepted_format).canonical(window)
        target = endpoint.path.format(**path_arguments)
        arguments = parsed.arguments()
        if arguments:
            target = f"{target}?{urlencode(arguments)}"
        return ParsedRequest(endpoint, path_arguments, parsed, target.encode())


def _blanked(segments: list[str], places: Iterable[int]) -> tuple[str, ...]:
    blanked = segments.copy()
    for place in places:
        blanked[place] = ""
    return tuple(blanked)


def _normalised(package: str) -> str:
    name = normalise(package)
    if name != ALL_PACKAGES and not is_valid(name):
        raise NotFoundError(
            f"No package can have this name: names are up to {MAX_NAME_CHARACTERS} letters, "
            "digits, '-', '_' and '.', with a letter or digit at both ends."
        )
    return name


def not_found(package: str) -> NotFoundError:
    """The error for a package without downloads in the window."""
    return NotFoundError(f"There is no package {package!r} with downloads in the days held.")
