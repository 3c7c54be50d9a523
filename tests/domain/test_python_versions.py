"""The dated file with the ends of life of Python's versions."""

import tomllib
from datetime import timedelta

from app.domain.breakdowns import PYTHON_MINOR
from app.domain.python_versions import PYTHON_SCHEDULE
from app.ingest.sources.sample import SHARES
from tests.clock import ManualClock
from tests.processes import ROOT

MAX_AGE = timedelta(days=365)
"""Python publishes a minor version each year, and its schedule before that."""


def _is_outdated(clock: ManualClock) -> bool:
    """Return True if the file should have been compared with its source again."""
    return clock().date() - PYTHON_SCHEDULE.as_of > MAX_AGE


def test_the_file_is_not_older_than_the_project(clock: ManualClock) -> None:
    """The tests' clock is set with each release, so this test fails on no day by itself."""
    assert not _is_outdated(clock)
    clock.now += 2 * MAX_AGE
    assert _is_outdated(clock)


def test_the_file_has_all_versions_in_use() -> None:
    used = {*SHARES[PYTHON_MINOR.column], *PYTHON_MINOR.examples} - {"null"}
    assert used <= PYTHON_SCHEDULE.end_of_life.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"].removeprefix(">=") in PYTHON_SCHEDULE.end_of_life


def test_versions_are_in_order() -> None:
    versions = [tuple(map(int, one.split("."))) for one in PYTHON_SCHEDULE.end_of_life]
    assert versions == sorted(versions)
    # All categories of the breakdown look like this.
    assert all(map(PYTHON_MINOR.is_category, PYTHON_SCHEDULE.end_of_life))
    # Some versions are planned: the file reaches at least one release ahead.
    assert max(PYTHON_SCHEDULE.end_of_life.values()) > PYTHON_SCHEDULE.as_of + 5 * MAX_AGE
