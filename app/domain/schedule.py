"""The schedule of the daily job: a cron expression, as cron(5) defines it, in UTC."""

import re
from datetime import UTC, date, datetime, time, timedelta

from apscheduler.triggers.base import BaseTrigger
from cronsim import CronSim, CronSimError

_FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day of the month": "1 to 31",
    "month": "1 to 12 or jan to dec",
    "weekday": "0 to 7 or sun to sat",
}

# The pattern excludes forms that cron(5) lacks, such as `L` and `mon#2`, and forms that
# implementations interpret differently, such as `5/15` and `1,*`.
_VALUE = "([0-9]+|[a-z]{3})"
_FIELD = re.compile(
    rf"\*(/[0-9]+)?|{_VALUE}(-{_VALUE}(/[0-9]+)?)?(,{_VALUE}(-{_VALUE}(/[0-9]+)?)?)*"
)


class Schedule(BaseTrigger):  # type: ignore[misc] # APScheduler has no types
    """A cron expression, which APScheduler can use as a trigger.

    APScheduler's own parser counts weekdays from Monday, and requires both the day of the month and
    the weekday to match where cron requires one of them.
    """

    def __init__(self, expression: str) -> None:
        """Raise ValueError, with the reason, if the expression is invalid or never fires."""
        fields = expression.split()
        if len(fields) != len(_FIELDS):
            raise ValueError(
                "should be five cron fields in UTC (minute hour day month weekday), "
                "such as '0 1 * * *' for 01:00"
            )
        for place, (name, values) in enumerate(_FIELDS.items()):
            alone = ["*"] * len(fields)
            alone[place] = fields[place]
            if not (_FIELD.fullmatch(fields[place].lower()) and _fires(" ".join(alone))):
                raise ValueError(
                    f"should have {values} in the field of the {name}: numbers, lists (1,2), "
                    "ranges from the lower to the higher value (1-5), and steps (*/2, 10-50/20)"
                )
        self.expression = " ".join(fields)
        if not _fires(self.expression):
            raise ValueError("should match a date: none of its months has the given day")

    def __str__(self) -> str:
        return self.expression

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.expression == other.expression

    def __hash__(self) -> int:
        return hash(self.expression)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first firing from now on. All missed firings together cause one run."""
        after = now.astimezone(UTC) - timedelta.resolution
        if previous_fire_time:
            after = max(after, previous_fire_time)
        return next(CronSim(self.expression, after))

    def next_firing(self, moment: datetime) -> datetime:
        """Return the first firing at `moment` or after it."""
        return self.get_next_fire_time(None, moment)

    def next_day_due_at(self, latest_day: date) -> datetime:
        """Return when the day after `latest_day` is due: at the first firing after its end."""
        return self.next_firing(datetime.combine(latest_day + timedelta(days=2), time(), UTC))


def _fires(expression: str) -> bool:
    try:
        CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True
