"""HEAD: the headers of GET, without its body."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

WITHOUT_BODY = "pypi_stats.without_body"
"""In a request's scope: true where nobody gets the body, for what would have to read a file."""


class HeadMiddleware:
    """Answers HEAD with what GET answers, body left out. Routes know GET alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # Not in the server's own, which tells it that no body follows.
        as_get = {**scope, "method": "GET", WITHOUT_BODY: True}
        await self._app(as_get, receive, send_without_body)
        if "route" in as_get:
            scope["route"] = as_get["route"]
