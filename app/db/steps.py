"""The steps by which a day gets from its source to the answers, for whoever wants to follow them.

Each is told to the log, at level debug, as it begins. A process that ends in any of them leaves the
database as it was before, or as it is after: the tests end one in each.
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
    """Tell that the step begins, for the day or, in retention, for the first one that is kept."""
    log.debug("%s: %s", day, step, extra={"step": step})
