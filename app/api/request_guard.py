"""A time limit for the requests that FastAPI answers, and error responses if they fail."""

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problem_details import error_response, timeout_error, unexpected_error_response

log = logging.getLogger(__name__)


class RequestGuardMiddleware:
    """Answers a request that takes too long with 503, and one that raises with 500."""

    def __init__(self, app: ASGIApp, timeout_seconds: float) -> None:
        self._app = app
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def end_timeout_and_send(message: Message) -> None:
            nonlocal started
            if not started:
                started = True
                # The download of a file takes as long as the client needs.
                deadline.reschedule(None)
            await send(message)

        deadline = asyncio.timeout(self._timeout_seconds)
        try:
            async with deadline:
                await self._app(scope, receive, end_timeout_and_send)
        except Exception as error:
            if started:
                # The response has started, so the server closes the connection.
                raise
            if isinstance(error, TimeoutError) and deadline.expired():
                answer = error_response(timeout_error(self._timeout_seconds))
            else:
                log.exception("a request failed unexpectedly")
                answer = unexpected_error_response()
            await answer(scope, receive, send)
