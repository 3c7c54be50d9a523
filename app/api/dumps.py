"""Whole days as files, for who would otherwise ask for every package.

What is there depends on the folder alone, and not on what is published: an export follows a publish
some time later. So the list says itself how long it may be kept, and is tagged by its content.
"""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from app.api.compression import COMPRESSED_FROM_BYTES, compressed
from app.api.headers import WITHOUT_BODY
from app.api.listed_dumps import unavailable
from app.api.negotiation import preferred_encoding
from app.api.problem_details import documented, problem
from app.api.schemas import Dumps
from app.api.state import InjectedState
from app.errors import NotFoundError

router = APIRouter(prefix="/api/dumps", tags=["dumps"])

LIST_CACHING = "public, max-age=60, stale-while-revalidate=300, stale-if-error=86400"
"""An export is seen within a minute. An old list is better than none: files change once a day."""

FILE_CACHING = "public, max-age=86400, immutable"
"""A name stands for one content."""

NO_SUCH_DUMP = "There is no such dump: /api/dumps lists those that there are."

MEDIA_TYPE = "application/octet-stream"

_RANGE_FAULTS = {
    400: "Range should be like bytes=0-1023.",
    416: "Range asks for what is beyond the end of the file.",
}


class DumpResponse(FileResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(WITHOUT_BODY):
            scope = {**scope, "method": "HEAD"}
        refused = 0

        async def send_unless_refused(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in _RANGE_FAULTS:
                refused = message["status"]
            if not refused:
                await send(message)

        await super().__call__(scope, receive, send_unless_refused)
        if refused:
            # Starlette says it in plain text.
            size = self.headers["content-length"]
            headers = {"Content-Range": f"bytes */{size}"} if refused == 416 else None
            await problem(refused, _RANGE_FAULTS[refused], headers=headers)(scope, receive, send)


@router.get(
    "",
    operation_id="get_dumps",
    summary="Which days there are files of",
    response_model=Dumps,
    responses=documented(429, 500, 503),
)
async def dumps(request: Request, state: InjectedState) -> Response:
    """Whole days as files, one a published day that was exported: to look at all packages, fetch
    these. Each row is a package with its downloads, and with a map for each breakdown.
    """
    listed = await state.dumps.current()
    accepted = ",".join(request.headers.getlist("accept-encoding")).encode()
    encoding = preferred_encoding(accepted) if len(listed.body) >= COMPRESSED_FROM_BYTES else ""
    tag = f'"{listed.digest}-{encoding}"' if encoding else f'"{listed.digest}"'
    headers = {"ETag": tag, "Cache-Control": LIST_CACHING}
    if _is_known(request, tag):
        return Response(status_code=304, headers={**headers, "Vary": "Accept-Encoding"})
    if encoding:
        # What is not compressed yet, the middleware that might do it adds this to.
        headers |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    body = compressed(listed.body, encoding) if encoding else listed.body
    return Response(body, headers=headers, media_type="application/json")


@router.get(
    "/{name}",
    operation_id="get_dump",
    summary="One day's file",
    response_class=FileResponse,
    responses={
        200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        **documented(404, 429, 500, 503, not_found=NO_SUCH_DUMP),
    },
)
async def dump(
    request: Request,
    state: InjectedState,
    name: Annotated[
        str,
        Path(
            description="Of a file that `/api/dumps` lists.",
            examples=["downloads-2026-11-20-5d41402abc4b.parquet"],
        ),
    ],
) -> Response:
    """A file that `/api/dumps` lists, whole or by `Range`."""
    listed = await state.dumps.current()
    found = next((one for one in listed.dumps.data if one.name == name), None)
    if found is None:
        raise NotFoundError(NO_SUCH_DUMP)
    tag = f'"{found.sha256}"'
    headers = {"ETag": tag, "Cache-Control": FILE_CACHING}
    if _is_known(request, tag):
        return Response(status_code=304, headers=headers)
    path = state.dumps.folder.path / found.name
    try:
        stat = await asyncio.to_thread(path.stat)
    except OSError as error:
        raise unavailable(f"{path} is listed: {error.strerror}") from error
    return DumpResponse(
        path, headers=headers, media_type=MEDIA_TYPE, filename=found.name, stat_result=stat
    )


def _is_known(request: Request, tag: str) -> bool:
    """Whether the client has what the tag stands for."""
    given = ",".join(request.headers.getlist("if-none-match"))
    return any(one.strip().removeprefix("W/") in {tag, "*"} for one in given.split(","))
