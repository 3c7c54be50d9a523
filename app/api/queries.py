"""Models of query arguments, with their parsing and their canonical form."""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from io import StringIO
from typing import Annotated, Any, ClassVar, Self, get_origin
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.api.payloads import CSV, RenderedBody
from app.domain.choice import Choice
from app.domain.downloads import ServedRanges
from app.errors import ArgumentError, InvalidArgumentsError

FORMAT = "format"
"""Argument that selects the format. It takes precedence over the `Accept` header."""


def check_digits(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch("[0-9]{1,18}", value):
        raise ValueError("should be a whole number, in digits")
    return value


WholeNumber = Annotated[int, BeforeValidator(check_digits)]
"""A number in ASCII digits. `int` would also accept signs, spaces, `1_0` and other scripts' digits.
"""


class EndpointQuery(BaseModel):
    """The query arguments of an endpoint. Unknown arguments are ignored."""

    model_config = ConfigDict(frozen=True)

    unbounded_arguments: ClassVar[frozenset[str]] = frozenset()
    """Names of the arguments of which clients can invent any number of valid values."""

    @classmethod
    def parse(cls, query: bytes, accepted_format: str | None) -> Self:
        """Validate a query string.

        An empty argument counts as omitted. If an argument with a single value is repeated, its
        first value counts. `accepted_format` applies if the query has no format.
        Raises `InvalidArgumentsError`.
        """
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else []
        values: dict[str, Any] = {}
        for name, value in pairs:
            if name in _repeated(cls):
                if value:
                    values.setdefault(name, []).append(value)
            else:
                values.setdefault(name, value)
        given = {name: value for name, value in values.items() if value}
        if FORMAT not in cls.model_fields:
            check_json_format(given.get(FORMAT))
        elif accepted_format:
            given.setdefault(FORMAT, accepted_format)
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise invalid_arguments(error) from None

    def canonical(self, served: ServedRanges) -> Self:
        """Return the canonical form. All queries with the same answer have equal canonical forms.

        `served` are the ranges that series cover.
        """
        del served
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


class TableFormat(Choice):
    JSON = "json"
    CSV = "csv"


class TableQuery(EndpointQuery):
    """Arguments of an endpoint whose payload is a flat table."""

    format: TableFormat = Field(
        TableFormat.JSON,
        description="Takes precedence over the Accept header. Generated clients with types expect "
        "JSON.",
    )

    def render_table(
        self,
        render_json: Callable[[], bytes],
        head: Sequence[str],
        rows: Iterable[Iterable[object]],
        *,
        is_cacheable: bool = True,
    ) -> RenderedBody:
        """Render a payload as JSON, or its rows as CSV (RFC 4180)."""
        if self.format is TableFormat.JSON:
            return RenderedBody(render_json(), is_cacheable=is_cacheable)
        table = StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(head)
        writer.writerows(rows)
        return RenderedBody(table.getvalue().encode(), CSV, is_cacheable)


@cache
def _repeated(query: type[EndpointQuery]) -> frozenset[str]:
    """Return the names of the arguments that may have several values."""
    fields = query.model_fields.items()
    return frozenset(name for name, one in fields if get_origin(one.annotation) is tuple)


def invalid_arguments(error: ValidationError, name: str = "") -> InvalidArgumentsError:
    """Translate pydantic's error. `name` is the argument if the error does not contain it."""
    errors = []
    for one in error.errors():
        message = str(one["ctx"]["error"]) if one["type"] == "value_error" else one["msg"]
        if one["type"] == "too_long":
            message = f"should have at most {one['ctx']['max_length']} values"
        errors.append(ArgumentError(name or str(one["loc"][0]), message))
    return InvalidArgumentsError(errors)


async def require_json(request: Request) -> None:
    """Reject other formats than JSON. All routes that FastAPI answers depend on this function."""
    check_json_format(next(iter(request.query_params.getlist(FORMAT)), None))


def check_json_format(value: str | None) -> None:
    """Raise `InvalidArgumentsError` if a client requests another format than JSON."""
    if value and value.lower() != "json":
        raise InvalidArgumentsError([ArgumentError(FORMAT, "Input should be 'json'")])
