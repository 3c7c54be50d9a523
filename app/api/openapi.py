"""The OpenAPI document: FastAPI's, with a description of the service, examples of required
arguments, the headers of responses, and errors under their own media type.
"""

import json
from typing import Any

import limits
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.endpoints import Endpoints
from app.api.limit_docs import in_words, is_limited
from app.api.problem_details import MEANINGS, MEDIA_TYPE, problem
from app.errors import ArgumentError, InvalidArgumentsError
from app.settings import Settings

_DESCRIPTION = """\
Download statistics of the packages on PyPI, as JSON, without a key.

## Figures

They come from PyPI's public BigQuery table of downloads, `{bigquery_table}`. Once a day, the UTC \
day before is aggregated there and published here, all of it at once.

* Series reach back {retention_days} days, ending with the latest *published* day. `/api/status` \
tells which day that is, and when it was published.
* `last_day` of `recent` is that day; `last_week` and `last_month` are the 7 and the 30 days that \
end with it.
* `__all__` as a package stands for every package together. A name may be in any spelling.
* PyPI has changed what it counts as a download, and has lost downloads: `/api/events` lists when. \
Nothing is compared across such a change: there, `change` is null and `/api/trending` is empty.
* Where the source does not know a version or a system, the category is `null`. A day on which a \
category had no download has no item.

## Ranges

Series by day take `start_date` and `end_date`, both included; `fill=zero` for items of 0 where \
a category had no download; `interval=week` or `month` for sums, of whole weeks and months only; \
and `format=csv`, or `Accept: text/csv`, for CSV. Days that are not published are not known: \
nothing is filled in for them, and no week or month that has one is summed. `X-Data-As-Of` is the \
latest published day.

## Mirrors

Known mirrors ({mirror_installers}) are left out of every figure, since what they fetch says \
little of a package's use. So are downloads by an unknown installer. Only the category \
`with_mirrors` of `overall` has both: `mirrors=true` asks for it alone, and `mirrors=false` for \
`without_mirrors`.

## Fair use

Figures change once a day, so please keep an answer for as long as its `Cache-Control` says, and \
then send its `ETag` in `If-None-Match`: while nothing is new, the answer is an empty `304`. Ask \
for up to 100 packages at once; for more, fetch whole days: `/api/dumps` lists their files.
{limits}
## Errors

An error is JSON too (`application/problem+json`, RFC 9457), and its `detail` says what is wrong. \
`404` is a package without downloads in the days held. Any path may answer `405` to a method other \
than `GET` and `HEAD`; `400`, `408`, `411`, `413`, `414` and `431` answer requests that are \
malformed, too large or too slow. `request_id` is also in `X-Request-ID`: please include it when \
you report a problem.
"""

_LIMITS = """
One client may make {limits}, on all paths together. Responses describe the limit that you are \
closest to: `X-RateLimit-Limit` is how many requests it allows, `X-RateLimit-Remaining` how many \
are left, and `X-RateLimit-Reset` when it starts anew, in seconds since 1970. Past it the answer \
is `429`: please wait for the seconds in its `Retry-After`.
"""


_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}

_EXAMPLE_DETAILS = {
    404: "There is no package 'reqeusts' with downloads in the days held.",
    429: "One client may make 10 requests per second: wait 1 s.",
    503: "The database can't be reached at the moment.",
}

_VALIDATION_SCHEMAS = ("HTTPValidationError", "ValidationError")
"""Schemas of FastAPI's own validation errors, which are never sent."""

_COMMON_HEADERS = {
    "X-Request-ID": ("Id of this request, as in the log.", _TEXT),
    "X-Data-As-Of": (
        "Latest published day, UTC: in every response, as soon as there is one.",
        {**_TEXT, "format": "date"},
    ),
}
_LIMIT_HEADERS = {
    "X-RateLimit-Limit": ("Requests that the limit you are closest to allows.", _NUMBER),
    "X-RateLimit-Remaining": ("Number of these requests that are left.", _NUMBER),
    "X-RateLimit-Reset": ("When the limit starts anew, in seconds since 1970.", _NUMBER),
}
_RETRY_HEADERS = {"Retry-After": ("Seconds to wait.", _NUMBER)}
_DATA_HEADERS = {
    "Cache-Control": ("How long the response may be cached.", _TEXT),
    "ETag": ("For `If-None-Match`: changes when the data does.", _TEXT),
    "Last-Modified": ("When the data was published.", _TEXT),
}


def describe(app: FastAPI, settings: Settings, endpoints: Endpoints) -> None:
    """Give the app its OpenAPI document, with the settings that concern clients."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _document(app, settings, endpoints)
        return app.openapi_schema

    # FastAPI documents this as the way to extend the document.
    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, settings: Settings, endpoints: Endpoints) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=_description(settings),
        routes=app.routes,
        # Relative to the document, so it is right behind a proxy that adds a prefix.
        servers=[{"url": "."}],
    )
    data_paths = {endpoint.path for endpoint in endpoints}
    for path, operations in document["paths"].items():
        names = [*_COMMON_HEADERS]
        if settings.rate_limits and is_limited(path):
            names += _LIMIT_HEADERS
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                _correct_parameter(parameter)
            # FastAPI adds a 422 to all routes with arguments, also if any text is valid.
            if "application/json" in operation["responses"].get("422", {}).get("content", ()):
                schema = operation["responses"]["422"]["content"]["application/json"]["schema"]
                if schema["$ref"].endswith(_VALIDATION_SCHEMAS):
                    del operation["responses"]["422"]
            for status, response in operation["responses"].items():
                _describe_response(int(status), response, names, is_data=path in data_paths)
    for name in _VALIDATION_SCHEMAS:
        document["components"]["schemas"].pop(name, None)
    document["components"]["headers"] = {
        name: {"description": meaning, "schema": schema}
        for headers in (_COMMON_HEADERS, _LIMIT_HEADERS, _RETRY_HEADERS, _DATA_HEADERS)
        for name, (meaning, schema) in headers.items()
    }
    return document


def _description(settings: Settings) -> str:
    limited = ""
    if settings.rate_limits:
        in_all = " and ".join(map(in_words, limits.parse_many(settings.rate_limits)))
        limited = _LIMITS.format(limits=in_all)
    return _DESCRIPTION.format(
        bigquery_table=settings.bigquery_table,
        retention_days=settings.retention_days,
        mirror_installers=", ".join(f"`{name}`" for name in settings.mirror_installers) or "none",
        limits=limited,
    )


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
    """Add the headers to a response, and to an error its media type and an example."""
    if status >= 400:
        example = _example_problem(status, response["description"])
        response["content"] = {
            MEDIA_TYPE: {**response["content"]["application/json"], "example": example}
        }
    if status in (429, 503):
        names = [*names, *_RETRY_HEADERS]
    if status == 200 and is_data:
        names = [*names, *_DATA_HEADERS]
    response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _example_problem(status: int, meaning: str) -> object:
    errors = None
    if status == InvalidArgumentsError.status:
        errors = [ArgumentError("period", "Input should be 'day', 'week' or 'month'")]
        detail = InvalidArgumentsError(errors).detail
    else:
        # A meaning that the route has of its own is the better example.
        detail = _EXAMPLE_DETAILS.get(status, meaning) if meaning == MEANINGS[status] else meaning
    example = json.loads(bytes(problem(status, detail, errors).body))
    # The id must not be that of the request that asks for the document first.
    return {**example, "request_id": "5f0c1f3b9a6e4d72"}
