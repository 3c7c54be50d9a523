"""The steps of an ingest.

Each step is logged at level debug when it begins. If a process is killed in any step, each day is
either unchanged or completely published. The tests kill a process in each step.
"""

import logging
from enum import StrEnum

from app.domain.months import Period

log = logging.getLogger(__name__)


class Step(StrEnum):
    READ = "reading from the source"
    STAGE = "staging rows"
    ADD_UP = "adding up the staged rows"
    LOCK = "waiting for other publishes"
    JUDGE = "checking if the day is plausible"
    HOLD = "holding the day"
    ALL_PACKAGES = "summing all packages"
    PARTITION = "creating the month's partition"
    REPLACE = "deleting the day's old rows"
    NEW_PACKAGES = "adding new packages"
    ROWS = "adding rows"
    RECORD = "recording the day"
    FIGURES = "updating the figures of packages"
    RANK = "ranking packages"
    ANNOUNCE = "announcing the publish"
    COMMIT = "committing"
    SUM = "summing the days of a month"
    MONTH_ROWS = "adding the rows of a month"
    TOTALS = "ranking packages by all months"
    COMMIT_MONTH = "committing a month"
    EXPIRE_MONTHS = "deleting months"
    DELETE_PACKAGES = "deleting packages"
    DROP = "dropping the days of months"
    COMMIT_RETENTION = "committing retention"


def enter(step: Step, day: Period) -> None:
    """Log that a step begins. In steps of a month, `day` is its first day, and in steps of
    retention the first day that stays.
    """
    log.debug("%s: %s", day, step, extra={"step": step})
