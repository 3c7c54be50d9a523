"""The OpenAPI document: FastAPI's, with what the service tells its users, an example in each
argument that has to be filled in, and errors under the media type and in the shape that they have.
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

What is by day takes `start_date` and `end_date`, both included; `fill=zero` for items of 0 where \
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
than `GET` and `HEAD`; `400`, `408`, `411`, `413`, `414` and `431` are for what is no request, or \
one that is too large or too slow. `request_id` is also in `X-Request-ID`: please tell it when you \
report a problem.
"""

_LIMITS = """
One client may make {limits}, on all paths together. Answers say where you stand with the limit \
that you are closest to: `X-RateLimit-Limit` is how many requests it allows, \
`X-RateLimit-Remaining` how many of them are left, and `X-RateLimit-Reset` when it starts anew, in \
seconds since 1970. Past it the answer is `429`: please wait for the seconds in its `Retry-After`.
"""


_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}

_EXAMPLE_DETAILS = {
    404: "There is no package 'reqeusts' with downloads in the days held.",
    429: "One client may make 10 requests per second: wait 1 s.",
    503: "The database can't be reached at the moment.",
}

_VALIDATION_SCHEMAS = ("HTTPValidationError", "ValidationError")
"""Of FastAPI's own errors, which nobody is sent."""

_EVERY_ANSWER = {
    "X-Request-ID": ("Of this request: its line in the log has it too.", _TEXT),
    "X-Data-As-Of": (
        "Latest published day, UTC: on every answer, as soon as there is one.",
        {**_TEXT, "format": "date"},
    ),
}
_LIMITED = {
    "X-RateLimit-Limit": ("Requests that the limit you are closest to allows.", _NUMBER),
    "X-RateLimit-Remaining": ("How many of them are left.", _NUMBER),
    "X-RateLimit-Reset": ("When it starts anew, in seconds since 1970.", _NUMBER),
}
_REFUSED = {"Retry-After": ("Seconds to wait.", _NUMBER)}
_DATA = {
    "Cache-Control": ("For how long the answer may be kept.", _TEXT),
    "ETag": ("For `If-None-Match`: the same as long as the answer is.", _TEXT),
    "Last-Modified": ("When the data was published.", _TEXT),
}


def describe(app: FastAPI, settings: Settings, endpoints: Endpoints) -> None:
    """Give the app its OpenAPI document, with the settings that its users should know."""
    data_paths = {endpoint.path for endpoint in endpoints}

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = get_openapi(
                title=app.title,
                version=app.version,
                description=_description(settings),
                routes=app.routes,
                # Relative to the document: also below a prefix that only a proxy knows of.
                servers=[{"url": "."}],
            )
            for path, operations in app.openapi_schema["paths"].items():
                for operation in operations.values():
                    _forget_validation(operation)
                    _mend_arguments(operation)
                    _name_problems(operation)
                    _tell_headers(
                        path,
                        operation,
                        limited=bool(settings.rate_limits),
                        is_data=path in data_paths,
                    )
            for name in _VALIDATION_SCHEMAS:
                app.openapi_schema["components"]["schemas"].pop(name, None)
            app.openapi_schema["components"]["headers"] = {
                name: {"description": meaning, "schema": schema}
                for headers in (_EVERY_ANSWER, _LIMITED, _REFUSED, _DATA)
                for name, (meaning, schema) in headers.items()
            }
        return app.openapi_schema

    # FastAPI documents this as the way to it.
    app.openapi = openapi  # type: ignore[method-assign]


def _description(settings: Settings) -> str:
    return _DESCRIPTION.format(
        bigquery_table=settings.bigquery_table,
        retention_days=settings.retention_days,
        mirror_installers=", ".join(f"`{name}`" for name in settings.mirror_installers) or "none",
        limits=_LIMITS.format(limits=_spoken(settings.rate_limits)) if settings.rate_limits else "",
    )


def _spoken(rate_limits: str) -> str:
    """`10/second;300/5 minutes` as "10 requests per second and 300 requests per 5 minutes"."""
    return " and ".join(map(in_words, limits.parse_many(rate_limits)))


def _mend_arguments(operation: dict[str, Any]) -> None:
    """An argument may be left out, and can't be null. Swagger UI fills in its own example, and not
    its schema's.
    """
    for parameter in operation.get("parameters", ()):
        schema = parameter["schema"]
        if parameter["required"]:
            parameter["example"] = schema["examples"][0]
        elif "anyOf" in schema:
            schema.update(*(one for one in schema.pop("anyOf") if one != {"type": "null"}))
            # Beside a reference, it would be another name for what that has named.
            schema.pop("title")


def _forget_validation(operation: dict[str, Any]) -> None:
    """FastAPI documents that of every route with an argument, those that take any text included."""
    responses = operation["responses"]
    if "422" in responses and "application/json" in responses["422"]["content"]:
        schema = responses["422"]["content"]["application/json"]["schema"]
        if schema["$ref"].endswith(_VALIDATION_SCHEMAS):
            del responses["422"]


def _name_problems(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        if status >= "400":
            response["content"] = {
                MEDIA_TYPE: {
                    **response["content"]["application/json"],
                    "example": _problem(int(status), response["description"]),
                }
            }


def _tell_headers(path: str, operation: dict[str, Any], *, limited: bool, is_data: bool) -> None:
    for status, response in operation["responses"].items():
        names = [*_EVERY_ANSWER]
        if limited and is_limited(path):
            names += _LIMITED
        if status in ("429", "503"):
            names += _REFUSED
        if status == "200" and is_data:
            names += _DATA
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _problem(status: int, detail: str) -> object:
    """What an error with this status looks like."""
    errors = None
    if status == InvalidArgumentsError.status:
        errors = [ArgumentError("period", "Input should be 'day', 'week' or 'month'")]
        detail = InvalidArgumentsError(errors).detail
    else:
        # Where the route gives a meaning of its own, that is the better example.
        detail = _EXAMPLE_DETAILS.get(status, detail) if detail == MEANINGS[status] else detail
    example = json.loads(bytes(problem(status, detail, errors).body))
    # Not that of the request which asks for the document first.
    return {**example, "request_id": "5f0c1f3b9a6e4d72"}
