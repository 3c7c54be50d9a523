"""Sends a prepared query result to Google's client, over the REST protocol of BigQuery."""

import random
import shutil
import sys
from collections.abc import Sequence
from datetime import date
from gzip import compress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import orjson

from app.domain.downloads import PackageDownloads
from benchmarks.command_line import bench_dir, progress
from benchmarks.data import SEED, batches

PAGE_ROWS = 10_000
"""Rows per page, as many as the client requests. BigQuery's size limit would allow more."""

JOB = {"projectId": "emulator", "jobId": "benchmark", "location": "US"}
SCHEMA = {"fields": [{"name": "line", "type": "STRING", "mode": "NULLABLE"}]}


def prepare_pages(packages: int, day: date) -> tuple[Path, int]:
    """Return a folder with the day as pages of a query's result, which is reused between runs, and
    the number of its category counts.
    """
    folder = bench_dir() / f"pages_{packages}_of_{PAGE_ROWS}_lines"
    if not folder.exists():
        progress(f"preparing the source's responses for {packages:,} packages")
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        rows: list[bytes] = []
        counts = 0
        for batch in batches(packages, day):
            rows.extend(_row(downloads) for downloads in batch)
            # The counts with and without mirrors are two more.
            counts += sum(2 + sum(map(len, row.breakdowns.values())) for row in batch)
        # A query returns its groups in random order.
        random.Random(SEED).shuffle(rows)
        for number, start in enumerate(range(0, len(rows), PAGE_ROWS)):
            page = _page(rows[start : start + PAGE_ROWS], start, len(rows))
            (unfinished / f"{number}.json.gz").write_bytes(compress(page, compresslevel=1))
        (unfinished / "counts").write_text(str(counts))
        unfinished.rename(folder)
    return folder, int((folder / "counts").read_text())


def _row(downloads: PackageDownloads) -> bytes:
    package, with_mirrors, without_mirrors, breakdowns = downloads
    # The query returns the text between the braces of a JSON object.
    insides = [orjson.dumps(counts)[1:-1].decode() for counts in breakdowns.values()]
    line = "\t".join([str(with_mirrors), str(without_mirrors), *insides, package])
    return orjson.dumps({"f": [{"v": line}]})


def _page(rows: Sequence[bytes], start: int, total: int) -> bytes:
    head = {
        "kind": "bigquery#getQueryResultsResponse",
        "jobReference": JOB,
        "jobComplete": True,
        "schema": SCHEMA,
        "totalRows": str(total),
    }
    if start + len(rows) < total:
        head["pageToken"] = str(start // PAGE_ROWS + 1)
    return orjson.dumps(head)[:-1] + b',"rows":[' + b",".join(rows) + b"]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pages: Path

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._send(orjson.dumps(_JOB_RESOURCE))

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if "/queries/" not in url.path:
            self._send(orjson.dumps(_JOB_RESOURCE))
            return
        number = parse_qs(url.query).get("pageToken", ["0"])[0]
        self._send((self.pages / f"{int(number)}.json.gz").read_bytes(), encoding="gzip")

    def _send(self, body: bytes, encoding: str = "identity") -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-encoding", encoding)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


_JOB_RESOURCE = {
    "kind": "bigquery#job",
    "id": "emulator:US.benchmark",
    "jobReference": JOB,
    "configuration": {
        "jobType": "QUERY",
        "query": {
            "query": "",
            "destinationTable": {"projectId": "emulator", "datasetId": "d", "tableId": "t"},
        },
    },
    "statistics": {"query": {"statementType": "SELECT", "totalBytesProcessed": "0"}},
    "status": {"state": "DONE"},
}

if __name__ == "__main__":
    _Handler.pages = Path(sys.argv[1])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), _Handler).serve_forever()
