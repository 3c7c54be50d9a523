"""A process that runs the ingest job and ends, or stands still, in the middle of it.

It is forked from one that has imported everything already: importing takes longer than the run.
"""

import asyncio
import logging
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from signal import Signals
from threading import Timer
from unittest.mock import patch

from app.ingest import scheduler
from app.ingest.sources.source import Source
from app.settings import Settings
from tests.clock import NOW
from tests.faults.steps import Entered, each_step

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class At:
    """A signal that a process sends itself."""

    step: int
    """Number of the step, counted from 0."""

    signal: Signals
    seconds: float = 0.0
    """Delay after the step has begun."""


@contextmanager
def running_job(
    settings: Settings, database_url: str, source: Source, at: At
) -> Iterator[ForkServerProcess]:
    process = _processes.Process(target=_run_job, args=(settings, database_url, source, at))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def _run_job(settings: Settings, database_url: str, source: Source, at: At) -> None:
    logging.getLogger().addHandler(logging.NullHandler())
    with (
        patch.object(scheduler, "open_source", lambda *_: source),
        each_step(partial(_signal, at)),
    ):
        asyncio.run(scheduler.run_ingest_job(settings, database_url, lambda: NOW))


def _signal(at: At, entered: Entered) -> None:
    if entered.number != at.step:
        return
    if at.seconds:
        Timer(at.seconds, os.kill, (os.getpid(), at.signal)).start()
    else:
        os.kill(os.getpid(), at.signal)
