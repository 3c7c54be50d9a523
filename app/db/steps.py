"""The steps of an ingest.

Each is logged at level debug as it begins. A process that is killed in a step leaves the database
as it was before the step or as it is after it: the tests kill one in each step.
"""

import logging
from datetime import date
from enum import StrEnum

log = logging.getLogger(__name__)


class Step(StrEnum):
    READ = "asking the source"
    STAGE = "staging rows"
    DESCRIBE = "adding up what is staged"
    LOCK = "waiting for other publishes"
    JUDGE = "judging whether it is plausible"
    HOLD = "holding it back"
    ALL_PACKAGES = "summing all packages"
    PARTITION = "making the month's partition"
    REPLACE = "deleting the day's old rows"
    NAMES = "adding new packages"
    ROWS = "adding rows"
    RECORD = "recording the day"
    RECENT = "bringing recent up to date"
    RANK = "ranking packages"
    ANNOUNCE = "announcing the publish"
    COMMIT = "committing"
    FORGET = "forgetting packages"
    DROP = "dropping months"
    COMMIT_RETENTION = "committing retention"


def enter(step: Step, day: date) -> None:
    """Log that a step begins, for the day or, in retention, for the first day that stays."""
    log.debug("%s: %s", day, step, extra={"step": step})
