"""Logging: readable lines, or one JSON object per line."""

import asyncio
import logging
import logging.config
import sys
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from time import gmtime, strftime
from typing import NamedTuple

import orjson
import structlog

from app.domain.clock import Clock

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the current request, for its log lines and error bodies. Empty outside of requests."""


def configure_logging(level: str, log_format: str) -> None:
    """Send the lines of all loggers, also those of libraries, to standard error.

    `level` is a level's name in lower case, `log_format` is `console` or `json`.
    """
    shared: list[structlog.typing.Processor] = [
        _add_request_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks do not show the values of variables, because some are passwords.
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
                "stderr": {"class": "logging.StreamHandler", "formatter": "structlog"},
            },
            "root": {"handlers": ["stderr"], "level": level.upper()},
            "loggers": {
                # The service itself logs what matters of the info lines of these libraries.
                "alembic": {"level": "WARNING"},
                "apscheduler": {"level": "WARNING"},
                "google.auth": {"level": "ERROR"},
                # These log the whole URL of every request, including passwords and tokens.
                "httpcore": {"level": "WARNING"},
                "httpx": {"level": "WARNING"},
            },
        }
    )


def _add_request_id(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if request_id.get():
        event["request_id"] = request_id.get()
    return event


FLUSH_SECONDS = 0.1
"""How long a request's line is buffered at most."""


class RequestLine(NamedTuple):
    """The fields of a request's log line."""

    method: str
    path: str
    query: str
    status: int
    bytes: int
    ms: float
    client: str
    request_id: str


class RequestLineWriter:
    """Writes the lines of requests in the format of `configure_logging`, ten times as fast.

    Lines are buffered, because one system call takes longer than formatting a line.
    """

    def __init__(self, log_format: str, clock: Clock) -> None:
        self._clock = clock
        self._render = _as_json if log_format == "json" else _as_text
        self._stream = sys.stderr.buffer
        self._lines: list[bytes] = []

    def write(self, line: RequestLine) -> None:
        now = self._clock()
        timestamp = f"{_second(int(now.timestamp()))}.{now.microsecond:06d}Z"
        self._lines.append(self._render(timestamp, line))
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        lines = b"".join(self._lines)
        self._lines.clear()
        # A request must not fail because its log line can't be written.
        with suppress(OSError, ValueError):
            self._stream.write(lines)
            self._stream.flush()


def _as_json(timestamp: str, line: RequestLine) -> bytes:
    fields = {
        "event": "request",
        "logger": "app.requests",
        "level": "info",
        "timestamp": timestamp,
        **line._asdict(),
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def _as_text(timestamp: str, line: RequestLine) -> bytes:
    query = f"?{line.query}" if line.query else ""
    return (
        f"{timestamp} [info     ] {line.method} {line.path}{query} {line.status} [app.requests] "
        f"bytes={line.bytes} ms={line.ms} client={line.client} request_id={line.request_id}\n"
    ).encode()


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    """Format a time to the second. The result is cached, because many lines share a second."""
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))
