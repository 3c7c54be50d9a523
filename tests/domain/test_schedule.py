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
        ("  0\t1  * * * ", ["Sun 11-01 01:00", "Mon 11-02 01:00"]),
        ("35,5,5 0 * * *", ["Sun 11-01 00:05", "Sun 11-01 00:35", "Mon 11-02 00:05"]),
        ("0 0-4/2,23 * * *", ["Sun 11-01 00:00", "Sun 11-01 02:00", "Sun 11-01 04:00"]),
        # A step beyond the range selects its first value.
        ("*/90 0 * * *", ["Sun 11-01 00:00", "Mon 11-02 00:00"]),
        ("0 0 */10 * *", ["Sun 11-01 00:00", "Wed 11-11 00:00", "Sat 11-21 00:00"]),
        ("0 0 * */6 *", ["Fri 01-01 00:00", "Sat 01-02 00:00"]),
        # Weekdays count from Sunday, which is 7 as well. Names are read in any case.
        ("0 0 * * 0,3", ["Sun 11-01 00:00", "Wed 11-04 00:00", "Sun 11-08 00:00"]),
        ("0 0 * * 5-7", ["Sun 11-01 00:00", "Fri 11-06 00:00", "Sat 11-07 00:00"]),
        ("0 0 * * */7", ["Sun 11-01 00:00", "Sun 11-08 00:00"]),
        ("0 0 * * MON,fri", ["Mon 11-02 00:00", "Fri 11-06 00:00"]),
        ("0 0 * * mon-fri/2", ["Mon 11-02 00:00", "Wed 11-04 00:00", "Fri 11-06 00:00"]),
        ("0 0 1 nov-dec *", ["Sun 11-01 00:00", "Tue 12-01 00:00", "Mon 11-01 00:00"]),
        # Either day matches if both are restricted. Both have to if one begins with *.
        ("0 0 13 * fri", ["Fri 11-06 00:00", "Fri 11-13 00:00", "Fri 11-20 00:00"]),
        ("0 0 31 2 mon", ["Mon 02-01 00:00", "Mon 02-08 00:00"]),
        ("0 0 */2 * mon", ["Mon 11-09 00:00", "Mon 11-23 00:00", "Mon 12-07 00:00"]),
        ("0 0 1-7 * */7", ["Sun 11-01 00:00", "Sun 12-06 00:00", "Sun 01-03 00:00"]),
        # Days that only some months have.
        ("0 0 31 * *", ["Thu 12-31 00:00", "Sun 01-31 00:00", "Wed 03-31 00:00"]),
        ("0 0 29 2 */7", ["Sun 02-29 00:00"]),
    ],
)
def test_a_schedule_fires_as_cron_does(expression: str, expected: list[str]) -> None:
    assert firings(expression, len(expected)) == expected


def test_a_firing_at_the_moment_itself_counts() -> None:
    schedule = Schedule("0 1 * * *")
    one = SUNDAY.replace(hour=1)
    assert schedule.next_firing(one) == one
    assert schedule.next_firing(one + timedelta(microseconds=1)) == one + timedelta(days=1)


def test_a_day_is_due_at_the_first_firing_after_its_end() -> None:
    assert Schedule("0 1 * * *").next_day_due_at(date(2026, 11, 1)) == datetime(
        2026, 11, 3, 1, tzinfo=UTC
    )
    assert Schedule("0 0 * * *").next_day_due_at(date(2026, 11, 1)) == datetime(
        2026, 11, 3, tzinfo=UTC
    )


def test_firings_that_were_missed_count_as_one() -> None:
    """However many there were, as in a machine that starts in 1970 until it gets the time."""
    schedule = Schedule("*/5 * * * *")
    missed = datetime(1970, 1, 1, 0, 5, tzinfo=UTC)
    now = SUNDAY + timedelta(minutes=7)
    assert schedule.get_next_fire_time(missed, now) == SUNDAY + timedelta(minutes=10)
    # Once it has fired, it fires at the next minute at the earliest.
    assert schedule.get_next_fire_time(SUNDAY, SUNDAY) == SUNDAY + timedelta(minutes=5)


@pytest.mark.parametrize("expression", ["", "0 1 * *", "0 0 1 * * *", "@daily"])
def test_an_expression_has_five_fields(expression: str) -> None:
    with pytest.raises(ValueError, match="should be five cron fields"):
        Schedule(expression)


@pytest.mark.parametrize(
    ("field", "right", "values"),
    [
        (0, "0 to 59 in the field of the minute", ("60", "-1", "0,", "0,,5", "0~30", "5/15")),
        (0, "0 to 59 in the field of the minute", ("*/0", "*/x", "*/", "*/2/2", "30-10")),
        (1, "0 to 23 in the field of the hour", ("24", "jan", "1,*", "+1")),
        (
            2,
            "1 to 31 in the field of the day",
            ("0", "32", "\u0663", "1,*", "last", "L", "?", "15W"),
        ),
        (3, "1 to 12 or jan to dec in the field of the month", ("13", "0", "mon")),
        (4, "0 to 7 or sun to sat in the field of the weekday", ("8", "monday", "mon2", "fri-sun")),
        (4, "0 to 7 or sun to sat in the field of the weekday", ("fri#2", "5L")),
    ],
)
def test_a_wrong_value_is_refused_with_the_right_ones(
    field: int, right: str, values: tuple[str, ...]
) -> None:
    """Also extensions of other schedulers, and forms in which implementations differ."""
    for value in values:
        fields = ["*"] * 5
        fields[field] = value
        with pytest.raises(ValueError, match=f"should have {right}"):
            Schedule(" ".join(fields))


@pytest.mark.parametrize("days", ["31 2 *", "30,31 feb *", "31 2,4,6,9,11 */2"])
def test_a_schedule_that_never_fires_is_refused(days: str) -> None:
    with pytest.raises(ValueError, match="none of its months has the given day"):
        Schedule(f"0 0 {days}")


def test_equal_expressions_are_equal_schedules() -> None:
    schedule = Schedule("0 1 * * *")
    assert schedule == Schedule(" 0 1 * *  *")
    assert hash(schedule) == hash(Schedule("0 1 * * *"))
    assert schedule != Schedule("1 1 * * *")
    assert str(pickle.loads(pickle.dumps(schedule))) == "0 1 * * *"
