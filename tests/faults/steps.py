"""Follows the steps of the ingests in this process."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.db.steps import Step, log


@contextmanager
def each_step(do: Callable[[int, Step], None]) -> Iterator[None]:
    """Call `do` as each step begins in this process, with how many there were before."""
    handler = _Handler(do)
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Handler(logging.Handler):
    def __init__(self, do: Callable[[int, Step], None]) -> None:
        super().__init__(logging.DEBUG)
        self._do = do
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        count, self._count = self._count, self._count + 1
        self._do(count, record.__dict__["step"])
