"""Tests of the rules by which days are published or held, without a database."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from app.domain.downloads import DayFigures, HeldDay
from app.ingest.judge import OTHER_WEEKDAY_RATIO, SETTLED_AFTER, KnownDays
from app.ingest.policy import Thresholds
from tests.days import POLICY

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
    thresholds: Thresholds = POLICY.thresholds,
) -> str | None:
    return (
        KnownDays(published, waiting or {}, replace(POLICY, thresholds=thresholds))
        .judge(one)
        .reason
    )


@pytest.mark.parametrize("weekday", range(7))
@pytest.mark.parametrize("level", [0.62, 0.8, 1.0, 1.3, 1.9])
def test_an_ordinary_day_is_published(weekday: int, level: float) -> None:
    day = FRIDAY + timedelta(days=weekday)
    assert judge(figures(day, level), before(day)) is None


@pytest.mark.parametrize("weekday", range(7))
@pytest.mark.parametrize(
    ("level", "packages", "told"),
    [
        (0.5, 0.9, "downloads instead of {} a ratio of 0.50, minimum 0.60"),
        (0.01, 0.3, "packages instead of {} a ratio of 0.30, minimum 0.75"),
        (2.1, 1.0, "downloads instead of {} a ratio of 2.10, maximum 2.00"),
        (1.0, 1.6, "packages instead of {} a ratio of 1.60, maximum 1.50"),
        (0.9, 0.7, "packages instead of {} a ratio of 0.70, minimum 0.75"),
    ],
)
def test_a_half_day_and_a_double_one_are_held(
    weekday: int, level: float, packages: float, told: str
) -> None:
    day = FRIDAY + timedelta(days=weekday)
    reason = judge(figures(day, level, packages=packages), before(day))
    assert reason
    assert re.search(told.format(rf"[\d,]+ on {day:%A}s:"), reason)


def test_an_empty_database_has_no_neighbours_to_compare_with() -> None:
    assert judge(figures(FRIDAY, 0.001), {}) is None


@pytest.mark.parametrize("days", range(1, 7))
def test_in_the_first_week_other_weekdays_are_neighbours(days: int) -> None:
    """The limits are wider: ordinary days pass, and days with few downloads do not."""
    for weekday in range(7):
        day = FRIDAY + timedelta(days=weekday)
        assert judge(figures(day), before(day, days)) is None
        assert judge(figures(day, 0.2, packages=0.4), before(day, days))
        assert judge(figures(day, 6), before(day, days))


def test_later_days_are_neighbours_too() -> None:
    """A backfill begins with the latest day."""
    fridays = (FRIDAY + timedelta(weeks=week) for week in (1, 2))
    later = {day: figures(day) for day in fridays}
    assert judge(figures(FRIDAY), later) is None
    assert judge(figures(FRIDAY, 0.5), later)


def test_one_odd_week_does_not_change_the_median() -> None:
    published = before(FRIDAY)
    published[FRIDAY - timedelta(days=7)] = figures(FRIDAY, 0.3)
    assert judge(figures(FRIDAY), published) is None
    assert judge(figures(FRIDAY, 0.4), published)


def days_held(
    first: date, level: float, days: int, thresholds: Thresholds = POLICY.thresholds
) -> tuple[list[int], dict[date, DayFigures]]:
    """Ingest days of another level, each read twice; return those held at first, and all that are
    published in the end.
    """
    policy = replace(POLICY, thresholds=thresholds)
    published = before(first)
    waiting: dict[date, HeldDay] = {}
    held_days = []

    def known() -> KnownDays:
        return KnownDays(published, waiting, policy)

    for passed in range(days):
        day = first + timedelta(days=passed)
        one = figures(day, level)
        if known().judge(one).reason:
            held_days.append(passed)
            waiting[day] = held(one, settled=False)
            if known().judge(one).reason:
                # Read again, with the same result.
                waiting[day] = held(one, settled=True)
        known_now = known()
        for other in sorted(waiting, reverse=True):
            if known_now.judge(waiting[other]).reason is None:
                published[other] = waiting.pop(other)
                known_now = known()
        if day not in waiting:
            published[day] = one
    return held_days, published


@pytest.mark.parametrize("level", [0.21, 0.4, 3.0, 4.9])
@pytest.mark.parametrize("first", [FRIDAY + timedelta(days=passed) for passed in range(7)])
def test_a_step_is_accepted_when_it_has_lasted(level: float, first: date) -> None:
    """The first three days wait for each other."""
    held_days, published = days_held(first, level, 60)
    assert held_days == [0, 1, 2]
    assert len(published) == 120


@pytest.mark.parametrize("level", [0.0, 0.001, 0.19, 5.1, 1000])
@pytest.mark.parametrize("first", [FRIDAY + timedelta(days=passed) for passed in range(7)])
@pytest.mark.parametrize("step_days", [1, 3])
def test_an_implausible_change_is_never_a_step(level: float, first: date, step_days: int) -> None:
    """The outage is longer than the weeks with which a day is compared."""
    thresholds = replace(POLICY.thresholds, step_days=step_days)
    held_days, published = days_held(first, level, 50, thresholds)
    assert held_days == list(range(50))
    assert published == before(first)


def test_settings_limit_a_step() -> None:
    thresholds = replace(POLICY.thresholds, min_step_ratio=0.5, max_step_ratio=2.5)
    assert len(days_held(FRIDAY, 0.45, 10, thresholds)[0]) == 10
    assert len(days_held(FRIDAY, 0.55, 10, thresholds)[0]) == 3
    assert len(days_held(FRIDAY, 2.6, 10, thresholds)[0]) == 10


def test_a_new_level_is_suspect_until_it_is_normal() -> None:
    step = [FRIDAY + timedelta(days=passed) for passed in range(40)]
    published = before(FRIDAY)
    counts = []
    for day in step:
        published[day] = figures(day, 0.4)
        suspects = KnownDays(published, {}, POLICY).suspects(date.min)
        counts.append(len(suspects))
        if day == FRIDAY:
            assert suspects == {day: judge(figures(day, 0.4), before(FRIDAY))}
    assert counts[:3] == [1, 2, 3]
    assert counts[-1] == 0


def test_suspect_days_are_those_of_the_window() -> None:
    known = KnownDays(before(FRIDAY) | {FRIDAY: figures(FRIDAY, 0.01)}, {}, POLICY)
    assert list(known.suspects(FRIDAY)) == [FRIDAY]
    assert known.suspects(FRIDAY + timedelta(days=1)) == {}


@pytest.mark.parametrize("outage", [1, 2, 15, 40])
@pytest.mark.parametrize("days", [90, 180])
def test_a_database_that_begins_in_an_outage_finds_its_level(outage: int, days: int) -> None:
    """A backfill, latest day first: what most days agree on is normal in the end."""
    published: dict[date, DayFigures] = {}
    waiting: dict[date, HeldDay] = {}

    def known() -> KnownDays:
        return KnownDays(published, waiting, POLICY)

    for passed in range(days):
        day = FRIDAY - timedelta(days=passed)
        one = figures(day, 0.001 if passed < outage else 1.0, packages=1.0)
        if known().judge(one).reason:
            waiting[day] = held(one, settled=False)
        else:
            published[day] = one
    while released := [day for day in waiting if known().judge(waiting[day]).reason is None]:
        published[released[0]] = waiting.pop(released[0])
    lossy = {FRIDAY - timedelta(days=passed) for passed in range(outage)}
    normal = {FRIDAY - timedelta(days=passed) for passed in range(outage, days)}
    suspects = known().suspects(date.min).keys()
    assert published.keys() - suspects == normal
    assert waiting.keys() | suspects == lossy


def test_the_level_is_found_when_days_are_read_again_after_an_outage() -> None:
    """All that is published is lossy, and each day is held as it is read again."""
    span = [FRIDAY - timedelta(days=passed) for passed in range(15)]
    published = {day: figures(day, 0.001) for day in span}
    waiting: dict[date, HeldDay] = {}
    for day in span:
        assert judge(figures(day), published, waiting) or len(waiting) > 7
        waiting[day] = held(figures(day), settled=False)
    for day in span:
        assert judge(figures(day), published, waiting) is None


def test_growth_over_years_is_normal() -> None:
    """Downloads grow 270-fold in ten years."""
    span = [FRIDAY - timedelta(days=passed) for passed in range(3660)]
    published = {day: figures(day, 1.75 ** ((day - FRIDAY).days / 365)) for day in span}
    known = KnownDays(published, {}, POLICY)
    assert known.suspects(date.min) == {}
    for day in (span[0], span[1800], span[-1]):
        assert known.judge(published[day]).deviation is None
        assert known.judge(replace(published[day], downloads=published[day].downloads // 3)).reason


@pytest.mark.parametrize("lossy_days", [1, 7, 18])
def test_lossy_days_are_suspect_once_a_complete_day_is_known(lossy_days: int) -> None:
    """The complete day is held, because most days have far less."""
    published = {day: figures(day, 0.001) for day in before(FRIDAY, lossy_days)}
    assert KnownDays(published, {}, POLICY).suspects(date.min) == {}
    complete = figures(FRIDAY)
    assert judge(complete, published)
    known = KnownDays(published, {FRIDAY: held(complete, settled=True)}, POLICY)
    suspects = known.suspects(date.min)
    assert suspects.keys() == published.keys()
    assert all(
        f"instead of {complete.downloads:,} on the days with the most downloads" in one
        for one in suspects.values()
    )
    # A held day with wrong rows, or one of another rule, proves nothing.
    wrong = replace(held(complete, settled=True), wrong_rows=1)
    assert KnownDays(published, {FRIDAY: wrong}, POLICY).suspects(date.min) == {}


@pytest.mark.parametrize("step_days", [1, 3])
def test_steps_of_a_young_database_do_not_add_up(step_days: int) -> None:
    """Each is small enough to be real, but not all together."""
    thresholds = replace(POLICY.thresholds, step_days=step_days)
    published = before(FRIDAY, 2)
    waiting: dict[date, HeldDay] = {}
    for passed in range(40):
        day = FRIDAY + timedelta(days=passed)
        waiting[day] = held(figures(day, 0.4 ** (1 + passed // 8)), settled=True)
        while released := [
            one for one in waiting if not judge(waiting[one], published, waiting, thresholds)
        ]:
            published[released[-1]] = waiting.pop(released[-1])
    ratios = [one.downloads / figures(day).downloads for day, one in published.items()]
    assert min(ratios) >= thresholds.min_step_ratio * OTHER_WEEKDAY_RATIO
    assert len(waiting) >= 20


def test_sample_days_are_never_judged() -> None:
    sample = replace(figures(FRIDAY, 0.01), source="sample")
    assert judge(sample, before(FRIDAY)) is None
    published = before(FRIDAY) | {FRIDAY: sample}
    assert KnownDays(published, {}, POLICY).suspects(date.min) == {}


def test_half_a_day_is_held_among_similar_days() -> None:
    """The first week of a new definition is like this."""
    monday = FRIDAY - timedelta(days=4)
    published = {monday: figures(monday)}
    for passed in range(1, 5):
        day = monday + timedelta(days=passed)
        assert judge(figures(day), published) is None
        assert judge(figures(day, 0.5), published)
    saturday = monday + timedelta(days=5)
    assert judge(figures(saturday), published) is None
    assert judge(figures(saturday, 0.5), published)


def test_a_distant_day_is_compared_with_all_others() -> None:
    long_ago = before(FRIDAY - timedelta(days=40), days=40)
    assert judge(figures(FRIDAY, 1.3), long_ago) is None
    assert judge(figures(FRIDAY, 0.01), long_ago)


def test_unsettled_days_form_no_step() -> None:
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


def test_settings_set_the_thresholds() -> None:
    wide = Thresholds(0, 1e9, 0, 1e9, 0, 1e9, 1)
    assert judge(figures(FRIDAY, 0.01), before(FRIDAY), thresholds=wide) is None
    narrow = Thresholds(0.99, 1.01, 0.99, 1.01, 0.2, 5, 30)
    assert judge(figures(FRIDAY, 0.97), before(FRIDAY), thresholds=narrow)
