"""Every error as one shape: RFC 9457's problem details."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api.headers import DATA_AS_OF
from app.api.schemas import Problem
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

# Python before 3.13 has other phrases for these, from RFCs that were replaced.
_TITLES = {status: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    414: "URI Too Long",
    422: "Unprocessable Content",
}

MEANINGS = {
    404: "There is no such package.",
    414: "The path with its query is too long.",
    422: "An argument has a value that is not right.",
    429: "The client made more requests than it may.",
    500: "Something unexpected happened.",
    503: "The answer can't be given now.",
}

_MESSAGES = {"string_too_short": "Input should not be empty"}
"""By Pydantic's names for what is wrong, where its own words are for programmers."""

_DETAILS = {
    404: "There is nothing at this path: /docs lists what there is.",
    405: "This path answers to the methods in the Allow header.",
}


def documented(*statuses: int, not_found: str = MEANINGS[404]) -> dict[int | str, dict[str, Any]]:
    """These errors as FastAPI documents a route's responses; `not_found` is what 404 means."""
    meanings = {**MEANINGS, 404: not_found}
    return {status: {"model": Problem, "description": meanings[status]} for status in statuses}


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
        body["errors"] = [
            {"parameter": error.parameter, "message": error.message} for error in errors
        ]
    body["request_id"] = request_id.get()
    return Response(orjson.dumps(body), status, headers, MEDIA_TYPE)


def not_found() -> Response:
    return problem(404, _DETAILS[404])


def error_answer(error: RequestError) -> Response:
    if isinstance(error, DatabaseUnavailableError):
        log.warning("%s", error)
    errors = error.errors if isinstance(error, InvalidArgumentsError) else None
    headers = {}
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if error.data_as_of:
        headers[DATA_AS_OF] = str(error.data_as_of)
    return problem(error.status, error.detail, errors, headers)


def timed_out(seconds: float) -> UnavailableError:
    return UnavailableError(f"The answer took more than {seconds:g} s.")


def unexpected_answer() -> Response:
    """It is for the log to tell more."""
    return problem(500, "Something unexpected happened.")


def install(app: FastAPI) -> None:
    """Have the app answer every error so."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)


async def _request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_answer(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    invalid = InvalidArgumentsError(
        [ArgumentError(str(fault["loc"][1]), _message(fault)) for fault in error.errors()]
    )
    return await _request_error(request, invalid)


def _message(fault: Mapping[str, Any]) -> str:
    message: str = _MESSAGES.get(fault["type"], fault["msg"])
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return message


async def _http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = _DETAILS.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    return problem(error.status_code, detail, headers=headers)
