"""Responses for all errors, in the format of RFC 9457 (problem details)."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api.headers import DATA_AS_OF, path_prefix
from app.api.payloads import without_default
from app.errors import (
    ArgumentError,
    DatabaseUnavailableError,
    InvalidArgumentsError,
    RequestError,
    UnavailableError,
)
from app.logs import request_id

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

# Python before 3.13 has the phrases of older RFCs for these.
_TITLES = {status: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}

MEANINGS = {
    404: "There is no such package.",
    414: "The path with its query is too long.",
    416: "The range begins after the end of the body.",
    422: "An argument has an invalid value.",
    429: "The client sent more requests than the limit allows.",
    500: "Something unexpected happened.",
    503: "The request can't be answered now.",
}

_SUCCESSES: dict[int, dict[str, Any]] = {
    206: {"description": "The part of the body that `Range` selects."},
    # Without content, generated Python clients would return `Any`.
    304: {
        "description": "Empty, because the body that the client has is still current.",
        "content": {"text/plain": {"schema": {"type": "string", "maxLength": 0}}},
    },
}


class Fault(BaseModel):
    """An argument with an invalid value."""

    parameter: str = Field(description="Name of the argument.", examples=["period"])
    message: str = Field(
        description="What is wrong with the value, or which values are valid.",
        examples=["Input should be 'day', 'week' or 'month'"],
    )


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="Kind of problem.", examples=["about:blank"])
    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(description="Status of the response.", examples=[404])
    detail: str = Field(description="What happened.", examples=["There is no package 'reqeusts'."])
    request_id: str = Field(
        description="Id of this request. It is also in the `X-Request-ID` header and in the log.",
        examples=["5f0c1f3b9a6e4d72"],
    )
    errors: list[Fault] = Field(
        [],
        description="All arguments with an invalid value. Present with status 422.",
        json_schema_extra=without_default,
    )


def status_docs(*statuses: int, not_found: str = MEANINGS[404]) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's documentation of these statuses. `not_found` describes the 404."""
    meanings = {**MEANINGS, 404: not_found}
    return {
        status: _SUCCESSES.get(status) or {"model": Problem, "description": meanings[status]}
        for status in statuses
    }


def problem(
    status: int,
    detail: str,
    errors: list[ArgumentError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body: dict[str, object] = {
        "type": "about:blank",
        "title": _TITLES[status],
        "status": status,
        "detail": detail,
    }
    if errors is not None:
        body["errors"] = errors
    body["request_id"] = request_id.get()
    return Response(orjson.dumps(body), status, headers, MEDIA_TYPE)


def not_found() -> Response:
    docs = f"{path_prefix.get()}/docs"
    return problem(404, f"There is nothing at this path: {docs} lists all paths.")


def error_response(error: RequestError) -> Response:
    if isinstance(error, DatabaseUnavailableError):
        log.warning("%s", error)
    errors = error.errors if isinstance(error, InvalidArgumentsError) else None
    headers = {}
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if error.data_as_of:
        headers[DATA_AS_OF] = str(error.data_as_of)
    return problem(error.status, error.detail, errors, headers)


def timeout_error(seconds: float) -> UnavailableError:
    return UnavailableError(f"The response took more than {seconds:g} s.")


def unexpected_error_response() -> Response:
    """Return a 500. Only the log has the details."""
    return problem(500, MEANINGS[500])


def install(app: FastAPI) -> None:
    """Let the app answer all errors in this format."""

    @app.exception_handler(RequestError)
    async def request_error(_: Request, error: RequestError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def http_exception(_: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return not_found()
        headers = dict(error.headers or {})
        detail = error.detail
        if error.status_code == 405:
            detail = "This path allows only the methods in the Allow header."
            headers["Allow"] = "GET, HEAD"
        return problem(error.status_code, detail, headers=headers)
