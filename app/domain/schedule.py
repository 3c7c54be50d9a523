"""The schedule of the daily job: a cron expression, as cron(5) defines it, in UTC."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

LEAP_YEAR = 2028
"""A year in which every month has its greatest length."""


class Schedule(BaseTrigger):  # type: ignore[misc] # APScheduler has no types
    """A parsed cron expression, which APScheduler can use as a trigger.

    APScheduler's own parser counts weekdays from Monday, and requires both the day of the month and
    the weekday to match where cron requires one of them. So the fields are parsed here, and
    APScheduler gets lists of values.
    """

    def __init__(self, expression: str) -> None:
        """Raise ValueError, with the reason, if the expression is invalid or never fires."""
        texts = expression.split()
        if len(texts) != len(_FIELDS):
            raise ValueError(
                "should be five cron fields in UTC (minute hour day month weekday), "
                "such as '0 1 * * *' for 01:00"
            )
        minute, hour, day, month, weekday = (
            field.values(text) for field, text in zip(_FIELDS, texts, strict=True)
        )
        by_day = {"day": _listed(day)}
        by_weekday = {"day_of_week": ",".join(WEEKDAYS[value % 7] for value in weekday)}
        if texts[2].startswith("*") or texts[4].startswith("*"):
            days = [by_day | by_weekday]
            if min(day) > max(monthrange(LEAP_YEAR, value)[1] for value in month):
                raise ValueError("should fire: no month that it names has such a day")
        else:
            # If both are restricted, one of them has to match.
            days = [by_day, by_weekday]
        times = {"minute": _listed(minute), "hour": _listed(hour), "month": _listed(month)}
        self.expression = " ".join(texts)
        self._either = OrTrigger([CronTrigger(**times, **one, timezone=UTC) for one in days])

    def __str__(self) -> str:
        return self.expression

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.expression == other.expression

    def __hash__(self) -> int:
        return hash(self.expression)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first firing from now on.

        Firings that were missed count as one: CronTrigger would return each of them, which takes
        minutes if the clock was years behind.
        """
        if previous_fire_time:
            now = max(now, previous_fire_time + timedelta.resolution)
        firing: datetime = self._either.get_next_fire_time(None, now)
        return firing

    def next_firing(self, moment: datetime) -> datetime:
        """Return the first firing at `moment` or after it."""
        return self.get_next_fire_time(None, moment)

    def due_at(self, latest_day: date) -> datetime:
        """Return when the day after `latest_day` is due: at the first firing after its end."""
        return self.next_firing(datetime.combine(latest_day + timedelta(days=2), time(), UTC))


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five fields: its range, and the names that stand for numbers."""

    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()

    def values(self, text: str) -> list[int]:
        """Return the numbers that the text selects."""
        return sorted({value for part in text.split(",") for value in self._range(part, text)})

    def _range(self, part: str, text: str) -> range:
        span, has_step, step = part.partition("/")
        low, is_range, high = span.partition("-")
        if has_step and not (step.isascii() and step.isdecimal() and int(step)):
            raise self._error("a step of 1 or more")
        if span == "*":
            if part != text:
                raise self._error("* alone, or a list without it")
            first, last = self.first, self.last
        elif is_range:
            first, last = self._number(low), self._number(high)
        elif has_step:
            raise self._error("* or a range before the step")
        else:
            first = last = self._number(span)
        if first > last:
            raise self._error("ranges from the lower to the higher value")
        return range(first, last + 1, int(step or 1))

    def _number(self, text: str) -> int:
        if text.lower() in self.names:
            return self.names.index(text.lower()) + self.first
        if text.isascii() and text.isdecimal() and self.first <= int(text) <= self.last:
            return int(text)
        names = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        raise self._error(f"{self.first} to {self.last}{names}")

    def _error(self, right: str) -> ValueError:
        return ValueError(f"should have {right} in the field of the {self.name}")


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, MONTHS),
    # Both 0 and 7 are Sunday.
    _Field("weekday", 0, 7, WEEKDAYS),
)


def _listed(values: list[int]) -> str:
    return ",".join(map(str, values))
