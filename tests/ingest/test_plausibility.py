"""Which days are published, and which have to wait: the rules, without a database."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import pytest

from app.downloads import DayFigures, HeldDay
from app.ingest import plausibility
from app.ingest.plausibility import SETTLED_AFTER, Thresholds
from tests.days import THRESHOLDS

FRIDAY = date(2026, 11, 20)
SHARES = (1.08, 1.14, 1.15, 1.13, 1.06, 0.72, 0.72)


def figures(
    day: date, level: float = 1.0, *, packages: float | None = None, digest: str = ""
) -> DayFigures:
    """A day of PyPI, at so many times its usual level. Packages vary less than downloads."""
    downloads = 3e9 * SHARES[day.weekday()] * level
    packages = level**0.5 if packages is None else packages
    return DayFigures(
        day=day,
        source="given",
        packages=int(600_000 * SHARES[day.weekday()] ** 0.5 * packages),
        downloads=int(downloads),
        downloads_with_mirrors=int(downloads * 1.1),
        digest=digest or f"{day} {level}",
    )


def before(day: date, days: int = 60, level: float = 1.0) -> dict[date, DayFigures]:
    span = (day - timedelta(days=passed) for passed in range(1, days + 1))
    return {one: figures(one, level) for one in span}


def held(one: DayFigures, *, settled: bool) -> HeldDay:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    return HeldDay(
        **{name: getattr(one, name) for name in DayFigures.__slots__},
        reason="",
        held_since=now - SETTLED_AFTER,
        read_at=now,
        readings=2,
        same_since=now - SETTLED_AFTER if settled else now - SETTLED_AFTER / 2,
        wrong_rows=0,
    )


def judge(
    one: DayFigures,
    published: Mapping[date, DayFigures],
    waiting: Mapping[date, HeldDay] | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> str | None:
    return plausibility.judge(one, published, waiting or {}, thresholds).reason


@pytest.mark.parametrize("weekday", range(7))
@pytest.mark.parametrize("level", [0.62, 0.8, 1.0, 1.3, 1.9])
def test_an_ordinary_day_is_published(weekday: int, level: float) -> None:
    day = FRIDAY + timedelta(days=weekday)
    assert judge(figures(day, level), before(day)) is None


@pytest.mark.parametrize("weekday", range(7))
@pytest.mark.parametrize(
    ("level", "packages", "told"),
    [
        (0.5, 0.9, "downloads are less than 0.60 times (0.50)"),
        (0.01, 0.3, "packages are less than 0.75 times (0.30)"),
        (2.1, 1.0, "downloads are more than 2.00 times (2.10)"),
        (1.0, 1.6, "packages are more than 1.50 times (1.60)"),
        (0.9, 0.7, "packages are less than 0.75 times (0.70)"),
    ],
)
def test_a_half_day_and_a_double_one_are_held(
    weekday: int, level: float, packages: float, told: str
) -> None:
    day = FRIDAY + timedelta(days=weekday)
    reason = judge(figures(day, level, packages=packages), before(day))
    assert reason
    assert told in reason
    assert f"of {day:%A}s" in reason


def test_an_empty_database_has_nothing_to_measure_by() -> None:
    assert judge(figures(FRIDAY, 0.001), {}) is None


@pytest.mark.parametrize("days", range(1, 7))
def test_in_the_first_week_other_weekdays_have_to_do(days: int) -> None:
    """With room for weekends: all ordinary days pass, and hardly anything of one does not."""
    for weekday in range(7):
        day = FRIDAY + timedelta(days=weekday)
        assert judge(figures(day), before(day, days)) is None
        assert judge(figures(day, 0.2, packages=0.4), before(day, days))
        assert judge(figures(day, 6), before(day, days))


def test_days_after_it_measure_as_well_as_days_before() -> None:
    """As in a backfill, which begins with the latest."""
    later = {FRIDAY + timedelta(days=7 * week): figures(FRIDAY) for week in (1, 2)}
    assert judge(figures(FRIDAY), later) is None
    assert judge(figures(FRIDAY, 0.5), later)


def test_one_odd_week_does_not_move_the_measure() -> None:
    published = before(FRIDAY)
    published[FRIDAY - timedelta(days=7)] = figures(FRIDAY, 0.3)
    assert judge(figures(FRIDAY), published) is None
    assert judge(figures(FRIDAY, 0.4), published)


@pytest.mark.parametrize("level", [0.4, 3.0, 10.0])
@pytest.mark.parametrize("first", [FRIDAY + timedelta(days=passed) for passed in range(7)])
def test_a_step_is_taken_when_it_has_lasted(level: float, first: date) -> None:
    """Day by day: what is held comes out the same when it is read again, until there are three."""
    published = before(first)
    waiting: dict[date, HeldDay] = {}
    held_days = []
    for passed in range(21):
        day = first + timedelta(days=passed)
        one = figures(day, level)
        if judge(one, published, waiting):
            held_days.append(passed)
            waiting[day] = held(one, settled=False)
            if judge(one, published, waiting):
                # Read again, with the same result.
                waiting[day] = held(one, settled=True)
        for other in sorted(waiting, reverse=True):
            if judge(waiting[other], published, waiting) is None:
                published[other] = waiting.pop(other)
        if day not in waiting:
            published[day] = one
    assert waiting == {}
    assert held_days == [0, 1, 2]


def test_days_that_still_change_make_no_step() -> None:
    waiting = {
        day: held(figures(day, 0.4), settled=False)
        for day in (FRIDAY + timedelta(days=passed) for passed in range(5))
    }
    for day, one in waiting.items():
        assert judge(one, before(FRIDAY), waiting), day


def test_a_part_of_a_day_is_held_in_a_step_too() -> None:
    published = before(FRIDAY, level=1.0)
    step = [FRIDAY + timedelta(days=passed) for passed in range(4)]
    published |= {day: figures(day, 0.5) for day in step}
    day = FRIDAY + timedelta(days=4)
    assert judge(figures(day, 0.5), published) is None
    assert judge(figures(day, 0.25, packages=0.5), published)


def test_thresholds_are_the_operators() -> None:
    wide = Thresholds(0, 1e9, 0, 1e9, 1)
    assert judge(figures(FRIDAY, 0.01), before(FRIDAY), thresholds=wide) is None
    narrow = Thresholds(0.99, 1.01, 0.99, 1.01, 30)
    assert judge(figures(FRIDAY, 0.97), before(FRIDAY), thresholds=narrow)
