"""Ends what takes too long to be answered, and answers what fails unexpectedly."""

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problem_details import error_answer, timed_out, unexpected_answer

log = logging.getLogger(__name__)


class RequestGuardMiddleware:
    """Lets nothing out but answers, so that those around it see every one."""

    def __init__(self, app: ASGIApp, timeout_seconds: float) -> None:
        self._app = app
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def note_and_send(message: Message) -> None:
            nonlocal started
            if not started:
                started = True
                # A file takes as long as its client does, and one that does not read is for the
                # server to end.
                deadline.reschedule(None)
            await send(message)

        deadline = asyncio.timeout(self._timeout_seconds)
        try:
            async with deadline:
                await self._app(scope, receive, note_and_send)
        except Exception as error:
            if started:
                # Too late to answer: the server closes the connection.
                raise
            if isinstance(error, TimeoutError) and deadline.expired():
                answer = error_answer(timed_out(self._timeout_seconds))
            else:
                log.exception("a request failed unexpectedly")
                answer = unexpected_answer()
            await answer(scope, receive, send)
