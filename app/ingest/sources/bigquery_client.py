"""Google's BigQuery client: creates it, translates its errors, and calls it in threads."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import google.auth
import orjson
import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPIError, RetryError, ServerError, TooManyRequests
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import bigquery
from google.oauth2 import service_account

from app.errors import SettingsError, SourceDayError, SourceError, SourceUnavailableError
from app.settings import Settings

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SCOPES = ("https://www.googleapis.com/auth/bigquery",)

PASSING_REASONS = {
    "backendError",
    "internalError",
    "jobBackendError",
    "jobInternalError",
    "rateLimitExceeded",
    "jobRateLimitExceeded",
    "stopped",
    "timeout",
}
"""Reasons in BigQuery's error table that are temporary."""

DAY_REASONS = {"bytesBilledLimitExceeded", "resourcesExceeded", "responseTooLarge"}
"""Reasons in BigQuery's error table that depend on the size of the day."""


def create_client(settings: Settings) -> bigquery.Client:
    """Create a client with the credentials of the settings, or with those that Google's library
    finds. Raises `SettingsError` if credentials or the project to bill are missing.
    """
    if settings.bigquery_emulator_host:
        log.warning("BIGQUERY_EMULATOR_HOST is set: the downloads come from an emulator")
        return bigquery.Client(
            project=settings.bigquery_project or "emulator",
            credentials=AnonymousCredentials(),
            client_options=ClientOptions(api_endpoint=settings.bigquery_emulator_host),
        )
    credentials, project = _credentials(settings)
    project = settings.bigquery_project or project
    if not project:
        raise SettingsError(
            "BIGQUERY_PROJECT: should name the Google Cloud project that is billed, "
            "because the credentials do not name one"
        )
    return bigquery.Client(project=project, credentials=credentials)


def _credentials(settings: Settings) -> tuple[Credentials, str | None]:
    try:
        if settings.google_service_account_json:
            info = json.loads(settings.google_service_account_json.get_secret_value())
            credentials = service_account.Credentials.from_service_account_info(info, scopes=SCOPES)
            return credentials, credentials.project_id
        return google.auth.default(scopes=SCOPES)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        # A field of the key is missing or has another type, or the private key is invalid. Google's
        # library describes some faults by a ValueError, and does not check for others.
        has_key = settings.google_service_account_json
        name = "GOOGLE_SERVICE_ACCOUNT_JSON" if has_key else "GOOGLE_APPLICATION_CREDENTIALS"
        is_described = isinstance(error, ValueError)
        reason = one_line(error) if is_described else "should contain a service account's key"
        raise SettingsError(f"{name}: {reason}") from error
    except GoogleAuthError as error:
        raise SettingsError(
            "BigQuery needs credentials: set GOOGLE_APPLICATION_CREDENTIALS to the file of a "
            "service account's key, or GOOGLE_SERVICE_ACCOUNT_JSON to its content, "
            f"or INGEST_SOURCE=sample to do without ({one_line(error)})"
        ) from error


def parse_by_orjson(client: bigquery.Client) -> None:
    """Let the client parse responses by orjson. The json module takes four times as long, during
    which the process answers no requests.
    """

    def replace_parser(response: requests.Response, *_: object, **__: object) -> None:
        response.json = lambda **_: orjson.loads(response.content)  # type: ignore[method-assign]

    client._http.hooks["response"] = [replace_parser]  # noqa: SLF001 - no public way exists


@contextmanager
def source_errors() -> Iterator[None]:
    """Translate errors of Google's client to `SourceError`."""
    try:
        yield
    except (GoogleAPIError, GoogleAuthError, requests.RequestException) as error:
        kind = SourceDayError if _reasons(error) & DAY_REASONS else SourceError
        raise (SourceUnavailableError if is_temporary(error) else kind)(
            f"BigQuery: {one_line(error)}"
        ) from error
    except TimeoutError as error:
        raise SourceUnavailableError(f"BigQuery: {str(error) or 'no response in time'}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # The response was truncated or malformed, which Google's client does not check.
        raise SourceUnavailableError(f"BigQuery: malformed response: {error}") from error


def is_temporary(error: Exception) -> bool:
    """Return True if the failure is temporary, because Google or the network caused it."""
    if isinstance(error, (ServerError, TooManyRequests, RetryError, requests.RequestException)):
        return True
    if isinstance(error, GoogleAuthError):
        return error.retryable or isinstance(error, TransportError)
    return bool(_reasons(error) & PASSING_REASONS)


def _reasons(error: Exception) -> set[str]:
    return {detail.get("reason") for detail in getattr(error, "errors", None) or ()}


def one_line(error: Exception) -> str:
    # `str(error)` would add the request's address and the job's ids to the message.
    message = getattr(error, "message", None) or str(error)
    return str(message).strip().partition("\n")[0]


async def call(
    timeout_seconds: float, function: Callable[..., Result], *arguments: object
) -> Result:
    """Call a blocking function of Google's client in a thread. Raises `SourceError`.

    When the process exits, it does not wait for cancelled calls, as it would with
    `asyncio.to_thread`. So Ctrl-C and a stop take effect even if the server does not respond.
    """
    outcome: Future[Result] = Future()
    # From now on, cancelling the task does not cancel this future, because the thread sets it.
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(function(*arguments))
        except Exception as error:  # noqa: BLE001 - it is raised where the future is awaited
            outcome.set_exception(error)

    threading.Thread(target=run, name="bigquery", daemon=True).start()
    with source_errors():
        try:
            async with asyncio.timeout(timeout_seconds):
                return await asyncio.wrap_future(outcome)
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {timeout_seconds} s") from error
