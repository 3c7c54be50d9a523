"""The service with a source of the tests: `python -m tests.faults.replica`.

It kills itself once in each of the steps that `FAULTS_KILLS` names. Its clock starts at `NOW`. All
changes are made as the module is imported, since each worker process imports it.
"""

import asyncio
import os
import pickle
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from datetime import date, timedelta
from pathlib import Path
from time import monotonic
from unittest.mock import patch

from app.domain import clock
from app.domain.months import Period
from tests.clock import NOW

SOURCE = "FAULTS_SOURCE"
"""A file with the pickled `GivenSource`."""

if SOURCE in os.environ:
    # Modules bind the clock as they are imported.
    STARTED_AT = monotonic()
    clock.utc_now = lambda: NOW + timedelta(seconds=monotonic() - STARTED_AT)

# ruff: noqa: E402
from app.cli import ingest, program, serve
from app.db.steps import Step
from app.domain.downloads import PackageDownloads
from app.ingest import scheduler
from tests.days import GivenSource
from tests.faults.steps import Entered, Follower

KILLS = "FAULTS_KILLS"
"""A folder with a file for each kill that is to come, as `kill_at` names them."""

BATCH_SECONDS = 0.03
"""Pause before each batch, so that the race takes a while."""


class SlowSource(GivenSource):
    async def _batches(self, day: Period) -> AsyncGenerator[Sequence[PackageDownloads], None]:
        async for batch in super()._batches(day):
            await asyncio.sleep(BATCH_SECONDS)
            yield batch


def kill_at(day: date, step: Step) -> str:
    return f"{day} {step.name}"


def _kill(entered: Entered) -> None:
    planned = Path(os.environ[KILLS]) / kill_at(entered.day, entered.step)
    if planned.exists():
        # The next process that enters this step survives.
        planned.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def _open_source(*_: object) -> SlowSource:
    given: GivenSource = pickle.loads(Path(os.environ[SOURCE]).read_bytes())
    return SlowSource(given.days)


if SOURCE in os.environ:
    for module in (ingest, serve, scheduler):
        patch.object(module, "open_source", _open_source).start()
    patch.object(scheduler, "LOCK_TAKEN_PAUSE", timedelta(seconds=0.2)).start()
    Follower(_kill).follow()

if __name__ == "__main__":
    sys.argv = ["app", "serve"]
    program.main()
