"""Whole days and months as files, for clients that would otherwise request every package.

The list depends only on the folder, and not on the publication, because a day is exported some time
after its publish. So the list has its own `Cache-Control`, and a tag that depends on its content.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Path, Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from app.api.dump_list_cache import unavailable
from app.api.headers import WITHOUT_BODY, path_prefix
from app.api.negotiation import matches_tag
from app.api.payloads import example_config
from app.api.problem_details import problem, status_docs
from app.api.state import InjectedState
from app.domain.breakdowns import REQUIRED_COLUMNS
from app.dumps import listing
from app.dumps.stores.folder import open_regular
from app.errors import NotFoundError

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/dumps", tags=["dumps"])

NO_SUCH_DUMP = "There is no such dump: /api/dumps lists the available ones."

MEDIA_TYPE = "application/octet-stream"

_RANGE_FAULTS = {
    400: "Range should be like bytes=0-1023.",
    416: "Range begins after the end of the file.",
}

_EXAMPLE = {
    "day": "2026-11-20",
    "name": "downloads-2026-11-20-5d41402abc4b.parquet",
    "url": "dumps/downloads-2026-11-20-5d41402abc4b.parquet",
    "format": "parquet",
    "bytes": 10240113,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "source": "bigquery",
    "packages": 712034,
    "downloads": 3120554871,
    "downloads_with_mirrors": 3410977120,
    "digest": "5d41402abc4b2a76b9719d911017c592ae1e2b7a0c8f6b0e9d3c5f4a7b6e8d90",
    "columns": [listing.DAY_COLUMN, *listing.TOTAL_COLUMNS, *REQUIRED_COLUMNS],
    "followed": None,
    "counted_files": "all",
}
_MONTH_EXAMPLE = {
    "month": "2026-05",
    **{name: value for name, value in _EXAMPLE.items() if name != "day"},
    "name": "monthly-2026-05-0cc175b9c0f1.parquet",
    "url": "dumps/monthly-2026-05-0cc175b9c0f1.parquet",
    "bytes": 41337026,
    "packages": 803112,
    "downloads": 93616646130,
    "downloads_with_mirrors": 102329313600,
    "digest": "0cc175b9c0f1b6a831c399e269772661d41402abc4b2a76b9719d911017c592a",
    "columns": [listing.MONTH_COLUMN, *listing.TOTAL_COLUMNS, *REQUIRED_COLUMNS],
    "days": 31,
    "missing_days": [],
}


class Dumps(listing.Dumps):
    """The published days and stored months that were exported to files, latest first."""

    model_config = example_config({"data": [_EXAMPLE], "months": [_MONTH_EXAMPLE], "type": "dumps"})


class DumpResponse(FileResponse):
    """A response with an open file, whole or by `Range`. The response to an invalid range is a
    problem document.
    """

    def __init__(self, file: BinaryIO, name: str, headers: Mapping[str, str]) -> None:
        self._file = file
        self._stat = os.fstat(file.fileno())
        super().__init__(
            # This path leads to the open file even if another file has taken its name.
            f"/dev/fd/{file.fileno()}",
            headers=headers,
            media_type=MEDIA_TYPE,
            filename=name,
            stat_result=self._stat,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = 0
        is_cut = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal refused, is_cut
            if message["type"] == "http.response.start" and message["status"] in _RANGE_FAULTS:
                refused = message["status"]
            elif message["type"] == "http.response.body" and not is_cut and self._has_changed():
                # The server closes the connection, so the client sees an incomplete response.
                log.warning("%s was changed while it was sent", self.filename)
                is_cut = True
            if not (refused or is_cut):
                await send(message)

        if scope.get(WITHOUT_BODY):
            scope = {**scope, "method": "HEAD"}
        with self._file:
            await super().__call__(scope, receive, send_unless_refused)
        if refused:
            size = self.headers["content-length"]
            headers = {"Content-Range": f"bytes */{size}"} if refused == 416 else None
            await problem(refused, _RANGE_FAULTS[refused], headers=headers)(scope, receive, send)

    def _has_changed(self) -> bool:
        stat = os.fstat(self._file.fileno())
        return (stat.st_mtime_ns, stat.st_size) != (self._stat.st_mtime_ns, self._stat.st_size)


@router.get(
    "",
    operation_id="get_dumps",
    summary="Days and months that are available as files",
    response_model=Dumps,
    responses=status_docs(304, 429, 500, 503),
)
async def dumps(request: Request, state: InjectedState) -> Response:
    """Files of whole days and months, one for each published day and stored month that was
    exported. Use them instead of requesting every package. Each row is a package with its
    downloads, and a map for each breakdown.
    """
    return await (await state.dumps.current()).content.respond(request)


@router.get(
    "/{name}",
    operation_id="get_dump",
    summary="The file of a day or month",
    response_class=FileResponse,
    responses={
        200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        **status_docs(206, 304, 404, 416, 429, 500, 503, not_found=NO_SUCH_DUMP),
    },
)
async def dump(
    request: Request,
    state: InjectedState,
    name: Annotated[
        str,
        Path(
            description="Name of a file that `/api/dumps` lists.", examples=[str(_EXAMPLE["name"])]
        ),
    ],
) -> Response:
    """One file that `/api/dumps` lists, whole or by `Range`."""
    listed = await state.dumps.current()
    found = next((one for one in listed.dumps.files if one.name == name), None)
    if found is None:
        raise NotFoundError(NO_SUCH_DUMP.replace("/api", f"{path_prefix.get()}/api"))
    tag = f'"{found.sha256}"'
    # The file under a name never changes.
    headers = {"ETag": tag, "Cache-Control": "public, max-age=86400, immutable"}
    if matches_tag(request, tag):
        return Response(status_code=304, headers=headers)
    path = state.dumps.folder.path / found.name
    try:
        file = await asyncio.to_thread(open_regular, path)
    except OSError as error:
        raise unavailable(f"{path} is listed and can't be sent: {error.strerror}") from error
    size = os.fstat(file.fileno()).st_size
    if size != found.bytes:
        file.close()
        raise unavailable(f"{path} has {size:,} bytes, and {found.bytes:,} are listed")
    return DumpResponse(file, found.name, headers)
