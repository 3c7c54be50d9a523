"""A minimal ASGI function that sends given bytes, as the baseline of the serving benchmark."""

import os
from pathlib import Path

from starlette.types import Receive, Scope, Send

_BODY = Path(os.environ["BARE_BODY"]).read_bytes()
_STATUS = int(os.environ["BARE_STATUS"])
_HEADERS = [
    (name, os.environ[variable].encode())
    for name, variable in (
        (b"content-type", "BARE_CONTENT_TYPE"),
        (b"content-encoding", "BARE_CONTENT_ENCODING"),
    )
    if os.environ.get(variable)
]
if _STATUS != 304:
    _HEADERS.append((b"content-length", b"%d" % len(_BODY)))

_START = {"type": "http.response.start", "status": _STATUS, "headers": _HEADERS}
_END = {"type": "http.response.body", "body": _BODY}


async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send(_START)
    await send(_END)
