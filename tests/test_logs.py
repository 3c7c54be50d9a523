"""The log of a server process."""

import subprocess
import sys

SCRIPT = """
import logging
from asyncio import CancelledError
from app.logs import configure_logging

configure_logging("info", "console")
log = logging.getLogger("uvicorn.error")
for error in (CancelledError("by the stop"), ZeroDivisionError("a defect")):
    log.error("Exception in ASGI application", exc_info=error)
log.error("Cancel 1 running task(s), timeout graceful shutdown exceeded")
"""


def test_cancelled_requests_have_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert "by the stop" not in done.stderr
    assert done.stderr.count("Exception in ASGI application") == 1
    assert "ZeroDivisionError: a defect" in done.stderr
    assert "Cancel 1 running task(s)" in done.stderr
