"""How many requests one client may make.

slowapi counts. Its own middleware finds the route first, which is most of its cost, and finds none
that belongs to an included router: ours asks for the path's beginning instead.
"""

from math import ceil
from time import time

from fastapi import FastAPI
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problem_details import problem

LIMITED_PREFIX = "/api/"


def install(app: FastAPI, rate_limits: str) -> None:
    """Limit all paths under `/api/` by client address, in one budget over all of them.

    `rate_limits` is as in the setting of that name; empty means no limit. Every limited answer says
    in its headers how many requests the tightest limit allows, how many of them remain, and when it
    starts anew, in seconds since 1970.
    """
    if rate_limits:
        limiter = Limiter(
            key_func=get_remote_address,
            key_style="url",
            application_limits=[rate_limits],
        )
        app.add_middleware(RateLimitMiddleware, limiter=limiter)


class RateLimitMiddleware:
    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(LIMITED_PREFIX):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        exceeded = None
        try:
            # What slowapi's own middleware calls, private as it is: nothing public does this.
            self._limiter._check_request_limit(request, None)  # noqa: SLF001
        except RateLimitExceeded as error:
            exceeded = error
        limit, key = request.state.view_rate_limit
        reset, remaining = self._limiter.limiter.get_window_stats(limit, *key)
        headers = {
            "X-RateLimit-Limit": str(limit.amount),
            "X-RateLimit-Remaining": str(remaining),
            "X-RateLimit-Reset": str(ceil(reset)),
        }
        if exceeded:
            headers["Retry-After"] = str(max(1, ceil(reset - time())))
            detail = f"One client may make {exceeded.detail} requests."
            await problem(429, detail, headers=headers)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self._app(scope, receive, send_with_headers)
