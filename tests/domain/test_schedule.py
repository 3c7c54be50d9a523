"""Cron expressions fire when cron(5) says they do, or are refused with a reason."""

import pickle
from datetime import UTC, date, datetime, timedelta

import pytest

from app.domain.schedule import Schedule

SUNDAY = datetime(2026, 11, 1, tzinfo=UTC)
"""The first of a month, too."""


def firings(expression: str, count: int, start: datetime = SUNDAY) -> list[str]:
    schedule = Schedule(expression)
    found: list[str] = []
    moment = start
    while len(found) < count:
        firing = schedule.next_firing(moment)
        found.append(f"{firing:%a %m-%d %H:%M}")
        moment = firing + timedelta(seconds=1)
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 1 * * *", ["Sun 11-01 01:00", "Mon 11-02 01:00", "Tue 11-03 01:00"]),
        ("  0\t1  * * * ", ["Sun 11-01 01:00", "Mon 11-02 01:00"]),
        ("* * * * *", ["Sun 11-01 00:00", "Sun 11-01 00:01", "Sun 11-01 00:02"]),
        # Lists, ranges and steps.
        ("5,35 0 * * *", ["Sun 11-01 00:05", "Sun 11-01 00:35", "Mon 11-02 00:05"]),
        ("35,5,5 0 * * *", ["Sun 11-01 00:05", "Sun 11-01 00:35", "Mon 11-02 00:05"]),
        ("0 22-23,1 * * *", ["Sun 11-01 01:00", "Sun 11-01 22:00", "Sun 11-01 23:00"]),
        ("*/25 0 * * *", ["Sun 11-01 00:00", "Sun 11-01 00:25", "Sun 11-01 00:50"]),
        ("10-50/20 0 * * *", ["Sun 11-01 00:10", "Sun 11-01 00:30", "Sun 11-01 00:50"]),
        ("0 0-4/2,23 * * *", ["Sun 11-01 00:00", "Sun 11-01 02:00", "Sun 11-01 04:00"]),
        # A step beyond the range selects its first value.
        ("*/90 0 * * *", ["Sun 11-01 00:00", "Mon 11-02 00:00"]),
        ("0 0 */10 * *", ["Sun 11-01 00:00", "Wed 11-11 00:00", "Sat 11-21 00:00"]),
        ("0 0 * */6 *", ["Fri 01-01 00:00", "Sat 01-02 00:00"]),
        # Weekdays count from Sunday, which is 7 as well.
        ("0 0 * * 0", ["Sun 11-01 00:00", "Sun 11-08 00:00"]),
        ("0 0 * * 7", ["Sun 11-01 00:00", "Sun 11-08 00:00"]),
        ("0 0 * * 1", ["Mon 11-02 00:00", "Mon 11-09 00:00"]),
        ("0 0 * * 6", ["Sat 11-07 00:00", "Sat 11-14 00:00"]),
        ("0 0 * * 1-5", ["Mon 11-02 00:00", "Tue 11-03 00:00"]),
        ("0 0 * * 5-7", ["Sun 11-01 00:00", "Fri 11-06 00:00", "Sat 11-07 00:00"]),
        ("0 0 * * 0-7", ["Sun 11-01 00:00", "Mon 11-02 00:00"]),
        ("0 0 * * 0,3", ["Sun 11-01 00:00", "Wed 11-04 00:00", "Sun 11-08 00:00"]),
        ("0 0 * * */3", ["Sun 11-01 00:00", "Wed 11-04 00:00", "Sat 11-07 00:00"]),
        ("0 0 * * */7", ["Sun 11-01 00:00", "Sun 11-08 00:00"]),
        # Names, in any case.
        ("0 0 * * sun", ["Sun 11-01 00:00", "Sun 11-08 00:00"]),
        ("0 0 * * MON,fri", ["Mon 11-02 00:00", "Fri 11-06 00:00"]),
        ("0 0 * * mon-wed", ["Mon 11-02 00:00", "Tue 11-03 00:00", "Wed 11-04 00:00"]),
        ("0 0 * * sun-tue", ["Sun 11-01 00:00", "Mon 11-02 00:00", "Tue 11-03 00:00"]),
        ("0 0 * * mon-fri/2", ["Mon 11-02 00:00", "Wed 11-04 00:00", "Fri 11-06 00:00"]),
        ("0 0 1 Jan *", ["Fri 01-01 00:00", "Sat 01-01 00:00"]),
        ("0 0 1 nov-dec *", ["Sun 11-01 00:00", "Tue 12-01 00:00", "Mon 11-01 00:00"]),
        # Either day matches if both are restricted,
        ("0 0 13 * fri", ["Fri 11-06 00:00", "Fri 11-13 00:00", "Fri 11-20 00:00"]),
        ("0 0 3,14 * 0", ["Sun 11-01 00:00", "Tue 11-03 00:00", "Sun 11-08 00:00"]),
        ("0 0 31 2 mon", ["Mon 02-01 00:00", "Mon 02-08 00:00"]),
        ("30 4 1,15 * 5", ["Sun 11-01 04:30", "Fri 11-06 04:30", "Fri 11-13 04:30"]),
        ("0 0 1-31 * mon", ["Sun 11-01 00:00", "Mon 11-02 00:00"]),
        # and both have to if one begins with *.
        ("0 0 */2 * mon", ["Mon 11-09 00:00", "Mon 11-23 00:00", "Mon 12-07 00:00"]),
        ("0 0 1-7 * */7", ["Sun 11-01 00:00", "Sun 12-06 00:00", "Sun 01-03 00:00"]),
        # Days that only some months have.
        ("0 0 31 * *", ["Thu 12-31 00:00", "Sun 01-31 00:00", "Wed 03-31 00:00"]),
        ("0 0 29,30 2 *", ["Tue 02-29 00:00"]),
        ("0 0 29 2 */7", ["Sun 02-29 00:00"]),
    ],
)
def test_it_fires_as_cron_does(expression: str, expected: list[str]) -> None:
    assert firings(expression, len(expected)) == expected


def test_a_firing_may_be_the_moment_itself() -> None:
    schedule = Schedule("0 1 * * *")
    one = SUNDAY.replace(hour=1)
    assert schedule.next_firing(one) == one
    assert schedule.next_firing(one + timedelta(microseconds=1)) == one + timedelta(days=1)


def test_a_day_is_due_at_the_first_firing_after_its_end() -> None:
    assert Schedule("0 1 * * *").due_at(date(2026, 11, 1)) == datetime(2026, 11, 3, 1, tzinfo=UTC)
    assert Schedule("0 0 * * *").due_at(date(2026, 11, 1)) == datetime(2026, 11, 3, tzinfo=UTC)


def test_firings_that_were_missed_count_as_one() -> None:
    """However many there were, as in a machine that starts in 1970 until it gets the time."""
    schedule = Schedule("*/5 * * * *")
    missed = datetime(1970, 1, 1, 0, 5, tzinfo=UTC)
    now = SUNDAY + timedelta(minutes=7)
    assert schedule.get_next_fire_time(missed, now) == SUNDAY + timedelta(minutes=10)
    # Once it has fired, it fires at the next minute at the earliest.
    assert schedule.get_next_fire_time(SUNDAY, SUNDAY) == SUNDAY + timedelta(minutes=5)


def test_days_with_29_february_are_leap_years() -> None:
    assert Schedule("0 0 29 2 *").next_firing(SUNDAY) == datetime(2028, 2, 29, tzinfo=UTC)
    assert Schedule("0 0 29 2 */7").next_firing(SUNDAY) == datetime(2032, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "five cron fields"),
        ("0 1 * *", "five cron fields"),
        ("0 0 1 * * *", "five cron fields"),
        ("@daily", "five cron fields"),
        ("60 * * * *", "0 to 59 in the field of the minute"),
        ("-1 * * * *", "0 to 59 in the field of the minute"),
        ("0 24 * * *", "0 to 23 in the field of the hour"),
        ("0 0 0 * *", "1 to 31 in the field of the day of the month"),
        ("0 0 * 13 *", "1 to 12 or jan to dec in the field of the month"),
        ("0 0 * * 8", "0 to 7 or sun to sat in the field of the weekday"),
        ("0 0 * * monday", "in the field of the weekday"),
        ("0 0 * mon *", "in the field of the month"),
        ("0 0 * * mon2", "in the field of the weekday"),
        ("0 0 ٣ * *", "1 to 31"),
        ("0, 1 * * *", "0 to 59 in the field of the minute"),
        ("0,,5 1 * * *", "0 to 59 in the field of the minute"),
        ("*/0 * * * *", "a step of 1 or more"),
        ("*/x * * * *", "a step of 1 or more"),
        ("*/ * * * *", "a step of 1 or more"),
        ("*/2/2 * * * *", "a step of 1 or more"),
        # Implementations differ in what these mean.
        ("5/15 * * * *", "* or a range before the step in the field of the minute"),
        ("0 0 1,* * 1", "* alone, or a list without it in the field of the day of the month"),
        ("0 0 * * fri-sun", "ranges from the lower to the higher value"),
        ("30-10 * * * *", "ranges from the lower to the higher value"),
        # Extensions of other schedulers.
        ("0 0 last * *", "in the field of the day"),
        ("0 0 L * *", "in the field of the day"),
        ("0 0 ? * 1", "in the field of the day"),
        ("0 0 * * fri#2", "in the field of the weekday"),
        ("0 0 15W * *", "in the field of the day"),
        ("0~30 1 * * *", "in the field of the minute"),
        # They never fire.
        ("0 0 31 2 *", "no month that it names has such a day"),
        ("0 0 30,31 feb *", "no month that it names has such a day"),
        ("0 0 31 2,4,6,9,11 */2", "no month that it names has such a day"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_reason(expression: str, reason: str) -> None:
    with pytest.raises(ValueError, match="should") as caught:
        Schedule(expression)
    assert reason in str(caught.value)


def test_equal_expressions_are_equal_schedules() -> None:
    schedule = Schedule("0 1 * * *")
    assert schedule == Schedule(" 0 1 * *  *")
    assert hash(schedule) == hash(Schedule("0 1 * * *"))
    assert schedule != Schedule("1 1 * * *")
    assert str(pickle.loads(pickle.dumps(schedule))) == "0 1 * * *"
