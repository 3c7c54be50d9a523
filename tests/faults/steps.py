"""Follows the steps of the ingests in this process."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from itertools import count
from typing import NamedTuple

from app.db.steps import Step, log


class Entered(NamedTuple):
    """A step that begins."""

    number: int
    """Number of the step, counted from 0."""

    step: Step
    day: date


class Follower(logging.Handler):
    def __init__(self, do: Callable[[Entered], None]) -> None:
        super().__init__(logging.DEBUG)
        self._do = do
        self._numbers = count()

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(record.args, tuple)
        day, step = record.args
        assert isinstance(day, date)
        assert isinstance(step, Step)
        self._do(Entered(next(self._numbers), step, day))

    def follow(self) -> None:
        log.setLevel(logging.DEBUG)
        log.addHandler(self)


@contextmanager
def each_step(do: Callable[[Entered], None]) -> Iterator[None]:
    """Call this as each step begins."""
    level = log.level
    follower = Follower(do)
    follower.follow()
    try:
        yield
    finally:
        log.removeHandler(follower)
        log.setLevel(level)
