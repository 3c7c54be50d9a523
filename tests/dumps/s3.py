"""An S3 server on loopback, which can be told to refuse."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from threading import Thread
from typing import Any

import httpx
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

KEY_ID, KEY = "KEYOFTESTS", "sec%2Fret"

REFUSED = b"<Error><Code>AccessDenied</Code><Message>Access Denied\nin two lines</Message></Error>"

CHANGES = {"PUT", "POST", "DELETE"}

_numbers = count(1)


class _QuietHandler(WSGIRequestHandler):
    def log(self, *_: Any, **__: Any) -> None:
        pass


class S3Server:
    """`requests` are those that were answered, `authorizations` what they showed."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.authorizations: set[str] = set()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._left: int | None = None
        self._is_last_done = False
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=_QuietHandler
        )
        self.address = f"127.0.0.1:{self._server.port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def new_bucket(self) -> str:
        name = f"bucket-{next(_numbers)}"
        httpx.put(f"http://{self.address}/{name}").raise_for_status()
        return name

    def url_of(self, path: str) -> str:
        """Address for the option `--to`."""
        return (
            f"s3://{KEY_ID}:{KEY}@{path}?endpoint_override={self.address}&scheme=http"
            "&region=us-east-1"
        )

    @contextmanager
    def refusing_from(self, change: int, *, is_first_done: bool = False) -> Iterator[None]:
        """From this request on that changes something, all are refused: to a client, that is like
        being killed there. `is_first_done`: the first of them has its effect, and no good answer.
        """
        self._left, self._is_last_done = change - 1, is_first_done
        try:
            yield
        finally:
            self._left = None

    @property
    def is_refusing(self) -> bool:
        return self._left is not None and self._left < 0

    def _answer(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if self._left is not None and environ["REQUEST_METHOD"] in CHANGES:
            self._left -= 1
            if self._left == -1 and self._is_last_done:
                list(self._app(environ, lambda *_: None))
        if self.is_refusing:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [REFUSED]
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        self.authorizations.add(environ.get("HTTP_AUTHORIZATION", ""))
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


@contextmanager
def s3_server() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    with server.running():
        yield server
