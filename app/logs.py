"""Logging: readable lines, or one JSON object per line."""

import atexit
import logging
import logging.config
import os
import sys
from asyncio import CancelledError
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from queue import Full, Queue
from threading import Thread

import structlog

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the current request, for its log lines and error bodies. Empty outside of requests."""


QUEUED_WRITES = 256
"""Maximum number of writes that wait for standard error."""

DRAIN_SECONDS = 0.5
"""How long a process that exits waits for its last log lines to be written."""

log = logging.getLogger(__name__)


class LogStream:
    """Standard error, written by a thread.

    If standard error is a pipe that is not read, lines are dropped and the service continues.
    """

    def __init__(self) -> None:
        self._queue: Queue[bytes] = Queue(QUEUED_WRITES)
        self._thread: Thread | None = None
        self._dropped_lines = 0
        self.count_dropped: Callable[[int], object] = int
        """Function that is called with the number of lines of each dropped write."""

    def write(self, lines: str) -> None:
        self.write_bytes(lines.encode())

    def write_bytes(self, lines: bytes) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._write_queued, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.drain)
        try:
            self._queue.put_nowait(lines)
        except Full:
            count = lines.count(b"\n")
            self._dropped_lines += count
            self.count_dropped(count)

    def flush(self) -> None:
        """Do nothing, because logging flushes after each line."""

    def drain(self) -> None:
        """Wait until the thread has written all lines, for `DRAIN_SECONDS` at most."""
        with self._queue.all_tasks_done:
            self._queue.all_tasks_done.wait_for(
                lambda: not self._queue.unfinished_tasks, DRAIN_SECONDS
            )

    def _write_queued(self) -> None:
        while True:
            lines = self._queue.get()
            # Ignore a closed pipe and a full disk.
            with suppress(OSError):
                while lines:
                    lines = lines[os.write(2, lines) :]
            self._queue.task_done()
            if self._dropped_lines:
                dropped, self._dropped_lines = self._dropped_lines, 0
                log.warning("dropped %d log lines that standard error did not accept", dropped)


LOG_STREAM = LogStream()
"""The stream of this process's log."""


def _is_not_cancelled(record: logging.LogRecord) -> bool:
    """Return False for the traceback of a cancelled request.

    uvicorn logs one line when a stop cancels requests, and then a traceback for each of them.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], CancelledError))


def configure_logging(level: str, log_format: str, stream: LogStream | None = None) -> None:
    """Write the lines of all loggers, including those of libraries, to standard error.

    `level` is a level's name in lower case, and `log_format` is `console` or `json`. The service
    passes a `LogStream`, which does not block.
    """
    shared: list[structlog.typing.Processor] = [
        _add_request_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Do not show the values of variables in tracebacks, because some are passwords.
    renderers: list[structlog.typing.Processor] = (
        [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ]
        if log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "structlog": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": shared,
                    "processors": [
                        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                        *renderers,
                    ],
                }
            },
            "handlers": {
                "stderr": {
                    "class": "logging.StreamHandler",
                    "formatter": "structlog",
                    "stream": stream or sys.stderr,
                },
            },
            "root": {"handlers": ["stderr"], "level": level.upper()},
            "loggers": {
                # The service has its own log lines for the important events of these libraries.
                "alembic": {"level": "WARNING"},
                "apscheduler": {"level": "WARNING"},
                "google.auth": {"level": "ERROR"},
                # These log the whole URL of every request, including passwords and tokens.
                "httpcore": {"level": "WARNING"},
                "httpx": {"level": "WARNING"},
            },
        }
    )
    logging.getLogger("uvicorn.error").addFilter(_is_not_cancelled)


def _add_request_id(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if request_id.get():
        event["request_id"] = request_id.get()
    return event
