"""Runs `python -m app` with the clock of the tests: `python -m tests.command ARGUMENTS`."""

import runpy

from app.domain import clock
from tests.clock import ManualClock

clock.utc_now = ManualClock()

runpy.run_module("app", run_name="__main__", alter_sys=True)
