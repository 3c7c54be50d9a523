"""The OpenAPI document: FastAPI's, with a description of the service, examples of required
arguments, the headers of responses, and errors under their own media type.
"""

import json
from functools import cache, partial
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.endpoints import Endpoints
from app.api.guide import describe_service
from app.api.limit_rules import is_limited
from app.api.problem_details import MEANINGS, MEDIA_TYPE, problem
from app.api.time_series import SeriesQuery
from app.domain.events import KnownEvents
from app.errors import ArgumentError, InvalidArgumentsError
from app.settings import Settings

_TAGS = {
    "packages": "The five endpoints of the public service, with the same responses.",
    "details": "More about one package, and many packages at once.",
    "rankings": "Packages by downloads, by growth and by name.",
    "badges": "Badges for READMEs.",
    "dumps": "Whole days as files.",
    "status": "The published days, and the state of the service.",
}

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}

_EXAMPLE_DETAILS = {
    404: "There is no package 'reqeusts' with downloads in the days served.",
    429: "One client may make 10 requests per second: wait 1 s.",
    503: "The database can't be reached at the moment.",
}

_COMMON_HEADERS = {
    "X-Request-ID": ("Id of this request, as in the log.", _TEXT),
    "X-Data-As-Of": ("Latest published day, UTC, if there is one.", {**_TEXT, "format": "date"}),
}
_LIMIT_HEADERS = {
    "X-RateLimit-Limit": (
        "Number of requests allowed by the limit that the client is closest to.",
        _NUMBER,
    ),
    "X-RateLimit-Remaining": ("Number of these requests that are left.", _NUMBER),
    "X-RateLimit-Reset": ("When the limit is reset, in seconds since 1970.", _NUMBER),
}
_RETRY_HEADERS = {"Retry-After": ("Seconds to wait.", _NUMBER)}
_RANGE_HEADERS = {"Content-Range": ("Position of the part in the body, and its size.", _TEXT)}
_DATA_HEADERS = {
    "Cache-Control": ("How long the response may be cached.", _TEXT),
    "ETag": ("Tag to send in `If-None-Match`. It changes with the data.", _TEXT),
    "Last-Modified": ("When the data was published.", _TEXT),
}
_HEADERS = _COMMON_HEADERS | _LIMIT_HEADERS | _RETRY_HEADERS | _RANGE_HEADERS | _DATA_HEADERS


def install_document(
    app: FastAPI, settings: Settings, endpoints: Endpoints, events: KnownEvents
) -> None:
    """Set the app's OpenAPI document, which includes the settings that concern clients."""
    # FastAPI documents this as the way to extend the document.
    app.openapi = cache(  # type: ignore[method-assign]
        partial(_document, app, settings, endpoints, events)
    )


def _document(
    app: FastAPI, settings: Settings, endpoints: Endpoints, events: KnownEvents
) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=describe_service(settings, events),
        routes=app.routes,
        tags=[{"name": name, "description": meaning} for name, meaning in _TAGS.items()],
        # The address is relative to the document, so it also works behind a proxy with a prefix.
        servers=[{"url": "."}],
    )
    data_paths = {endpoint.path for endpoint in endpoints}
    for path, operations in document["paths"].items():
        names = [*_COMMON_HEADERS]
        if settings.rate_limits and is_limited(path):
            names += _LIMIT_HEADERS
        for operation in operations.values():
            parameters = operation.get("parameters", [])
            # Generated clients take arguments by position. Put those that all series share last.
            parameters.sort(key=lambda one: one["name"] in SeriesQuery.model_fields)
            for parameter in parameters:
                _correct_parameter(parameter)
            responses = operation["responses"]
            # FastAPI adds a 422 to all routes with arguments, also if any value is valid.
            if "HTTPValidationError" in str(responses.get("422")):
                del responses["422"]
            if "206" in responses:
                # With different content, calls in generated clients would return a union of types.
                responses["206"]["content"] = responses["200"]["content"]
            for status, response in responses.items():
                _describe_response(int(status), response, names, is_data=path in data_paths)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    document["components"]["headers"] = {
        name: {"description": meaning, "schema": schema}
        for name, (meaning, schema) in _HEADERS.items()
    }
    document["info"] |= {
        "summary": "Download statistics of the packages on PyPI.",
        "license": {"name": "MIT", "identifier": "MIT"},
    }
    # No endpoint needs a key.
    document["security"] = []
    document["servers"][0]["description"] = "The server of this document."
    _widen_numbers(document)
    return document


def _widen_numbers(schema: Any) -> None:
    """Declare all numbers as 64-bit. Client generators default to 32 bits, which counts exceed."""
    if isinstance(schema, dict):
        if schema.get("type") == "number":
            schema["format"] = "double"
        if schema.get("type") == "integer":
            schema["format"] = "int64"
            # FastAPI writes 1.0, which generators copy into code where only an integer is valid.
            for bound in {"minimum", "maximum"} & schema.keys():
                schema[bound] = int(schema[bound])
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            _widen_numbers(part)


def _correct_parameter(parameter: dict[str, Any]) -> None:
    """Document that an optional argument can be omitted, but not null.

    Required arguments get an example of their own, since Swagger UI ignores that of the schema.
    """
    schema = parameter["schema"]
    if parameter["required"]:
        parameter["example"] = schema["examples"][0]
    elif "anyOf" in schema:
        schema.update(*(one for one in schema.pop("anyOf") if one != {"type": "null"}))
        # Beside a reference, a title would rename the referenced schema.
        schema.pop("title")


def _describe_response(
    status: int, response: dict[str, Any], names: list[str], *, is_data: bool
) -> None:
    """Add the headers to a response. Add the media type and an example to an error."""
    if status >= 400:
        example = _example_problem(status, response["description"])
        response["content"] = {
            MEDIA_TYPE: {**response["content"]["application/json"], "example": example}
        }
    if status in (429, 503):
        names = [*names, *_RETRY_HEADERS]
    if status in (206, 416):
        names = [*names, *_RANGE_HEADERS]
    if status < 400 and is_data:
        names = [*names, *_DATA_HEADERS]
    response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _example_problem(status: int, meaning: str) -> object:
    errors = None
    # If the route has its own description of the status, use it as the example.
    detail = _EXAMPLE_DETAILS.get(status, meaning) if meaning == MEANINGS[status] else meaning
    if status == InvalidArgumentsError.status:
        errors = [ArgumentError("period", "Input should be 'day', 'week' or 'month'")]
        detail = InvalidArgumentsError(errors).detail
    example = json.loads(bytes(problem(status, detail, errors).body))
    # Replace the id of the request that was the first to request the document.
    return {**example, "request_id": "5f0c1f3b9a6e4d72"}
