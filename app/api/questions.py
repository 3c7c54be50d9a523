"""What can be asked, and how it is brought to one spelling.

An endpoint is declared once. From that, what is asked as it should be is answered without FastAPI,
and its route there says what is wrong with all else.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from app.api.dependencies import SEVERAL_VALUES, Repositories, UnambiguousRoute
from app.api.formats import FORMAT, JSON
from app.downloads import Publication, Window
from app.errors import ArgumentError, InvalidArgumentsError
from app.package_name import ALL_PACKAGES, is_valid, normalise

_COUNT = re.compile("[0-9]{1,9}")

KNOWN_SPELLINGS = 500
"""Of questions, for which a process remembers what they are, in 15 MB at most. Whoever makes up
others has those of all forgotten, and read again: in 10 µs, or 0.7 ms of a hundred packages.
"""

LONGEST_KNOWN_SPELLING = 4096
"""In bytes of path and query. A hundred packages of usual names are shorter."""

_PACKAGE = "{package}"
_PACKAGE_SEGMENT = 3
"""Where all paths have it: `/api/…/{package}`."""


class Question(NamedTuple):
    """What a request asks for, however it spells that."""

    path: str
    """Of the endpoint, with `{package}` where it has a package."""

    package: str
    """Normalised; empty where there is none in the path."""

    arguments: tuple[tuple[str, str], ...]
    """In the endpoint's order, without those that change nothing."""

    def get(self, name: str) -> str | None:
        return dict(self.arguments).get(name)

    def all(self, name: str) -> list[str]:
        return [value for argument, value in self.arguments if argument == name]

    @property
    def target(self) -> bytes:
        """Its plainest spelling in a request."""
        path = self.path.replace(_PACKAGE, self.package)
        return f"{path}?{urlencode(self.arguments)}".encode() if self.arguments else path.encode()


class Asked(NamedTuple):
    endpoint: "Endpoint"
    question: Question

    target: bytes
    """The question's plainest spelling in a request."""

    @property
    def is_open(self) -> bool:
        """Whether there is an answer to any number of questions of the kind."""
        is_open = {argument.name: argument.is_open for argument in self.endpoint.arguments}
        return any(is_open[name] for name, _ in self.question.arguments)


class Rendered(NamedTuple):
    body: bytes
    media_type: bytes = JSON
    is_kept: bool = True
    """False of what clients can ask for in any number, and is not worth anything to others."""


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    normalise: Callable[[str, Window], str | None]
    """The value in the one spelling of all that mean the same; None where it changes nothing.

    Raises `ValueError` that says which values are right.
    """

    is_repeated: bool = False
    """It may have several values, whose order does not matter."""

    is_open: bool = False
    """Clients can make up any number of its values, and there is an answer to each."""


def choice(name: str, values: Iterable[str], default: str | None = None) -> Argument:
    """Of these values; the default is the same as leaving it out."""
    known = frozenset(values)

    def normalised(value: str, _: Window) -> str | None:
        if value not in known:
            raise ValueError(f"should be one of {', '.join(sorted(known))}")
        return None if value == default else value

    return Argument(name, normalised)


def text(name: str) -> Argument:
    """Any but the empty one."""

    def normalised(value: str, _: Window) -> str:
        if not value:
            raise ValueError("should not be empty")
        return value

    return Argument(name, normalised)


def count(name: str, most: int, default: int) -> Argument:
    """From 1 to `most`; the default is the same as leaving it out."""

    def normalised(value: str, _: Window) -> str | None:
        number = int(value) if _COUNT.fullmatch(value) else 0
        if not 1 <= number <= most:
            raise ValueError(f"should be a number from 1 to {most}")
        return None if number == default else str(number)

    return Argument(name, normalised)


def is_usual(number: int) -> bool:
    """Whether many are likely to ask for so many. What others ask for is not kept: one client could
    ask for each of a thousand numbers.
    """
    return number % 100 == 0 or (number < 100 and number % 10 == 0)


def _nothing_to_check(_: Mapping[str, Sequence[str]]) -> None:
    pass


Answer = Callable[[Repositories, Question, Publication], Awaitable[Rendered]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    path: str
    """A package is its third segment, written `{package}`."""

    route: UnambiguousRoute
    """That documents it."""

    answer: Answer
    """Raises a `StatsError`."""

    arguments: tuple[Argument, ...] = ()
    check: Callable[[Mapping[str, Sequence[str]]], None] = _nothing_to_check
    """Of all arguments together, as they were given. Raises `InvalidArgumentsError`."""

    @property
    def has_formats(self) -> bool:
        """Whether it is asked, by an argument or by the Accept header, for one of several."""
        return any(argument.name == FORMAT for argument in self.arguments)

    def question(
        self, package: str, query: bytes, window: Window, accepted_format: str | None = None
    ) -> Question:
        """What is asked by a normalised package and a request's query; `accepted_format` is used
        where the query does not say which. Raises `InvalidArgumentsError`.
        """
        given = parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else []
        if accepted_format and self.has_formats and all(name != FORMAT for name, _ in given):
            given.append((FORMAT, accepted_format))
        arguments: list[tuple[str, str]] = []
        values: dict[str, list[str]] = {}
        errors: list[ArgumentError] = []
        for argument in self.arguments if given else ():
            of_argument = {value for name, value in given if name == argument.name}
            if len(of_argument) > 1 and not argument.is_repeated:
                errors.append(ArgumentError(argument.name, SEVERAL_VALUES))
                continue
            values[argument.name] = list(of_argument)
            try:
                normalised = {argument.normalise(value, window) for value in of_argument}
            except ValueError as error:
                errors.append(ArgumentError(argument.name, str(error)))
                continue
            values_kept = sorted(value for value in normalised if value is not None)
            arguments += [(argument.name, value) for value in values_kept]
        if errors:
            raise InvalidArgumentsError(errors)
        self.check(values)
        return Question(self.path, package, tuple(arguments))


class Endpoints:
    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._by_path = {endpoint.path: endpoint for endpoint in endpoints}
        self._remembered = lru_cache(KNOWN_SPELLINGS)(self._asked)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._by_path.values())

    def asked(
        self, path: str, query: bytes, window: Window, accepted_format: str | None
    ) -> Asked | None:
        """What a request asks, as `Endpoint.question` has it. None where there is no such endpoint,
        and where a route has to say what is wrong.
        """
        is_short = len(path) + len(query) <= LONGEST_KNOWN_SPELLING
        find = self._remembered if is_short else self._asked
        return find(path, query, window, accepted_format)

    def _asked(
        self, path: str, query: bytes, window: Window, accepted_format: str | None
    ) -> Asked | None:
        found = self.at(path)
        if found is None:
            return None
        endpoint, package = found
        try:
            question = endpoint.question(package, query, window, accepted_format)
        except InvalidArgumentsError:
            return None
        return Asked(endpoint, question, question.target)

    def at(self, path: str) -> tuple[Endpoint, str] | None:
        """The endpoint of a request's path, and the package in it: normalised, or empty. None where
        there is no such endpoint, or the package is no name.
        """
        endpoint = self._by_path.get(path)
        if endpoint:
            return endpoint, ""
        segments = path.split("/")
        if len(segments) <= _PACKAGE_SEGMENT:
            return None
        package = segments[_PACKAGE_SEGMENT] = normalise(segments[_PACKAGE_SEGMENT])
        # `recent` of many, in another spelling of that word, is not the package of that name.
        endpoint = self._by_path.get("/".join(segments))
        if endpoint:
            return endpoint, ""
        segments[_PACKAGE_SEGMENT] = _PACKAGE
        endpoint = self._by_path.get("/".join(segments))
        if endpoint is None or not (is_valid(package) or package == ALL_PACKAGES):
            return None
        return endpoint, package
