"""Judges whether a day is plausible, from its figures.

The source's data arrives late and in parts, and has had days that were half missing or doubled. So
a day's packages and downloads are compared with those of normal days around it.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from math import inf
from statistics import median_high, median_low

from app.domain.downloads import DayFigures, HeldDay
from app.domain.events import Definition
from app.ingest.policy import PublishPolicy, Thresholds
from app.settings import IngestSource

WEEKS_AROUND = 4

SETTLED_AFTER = timedelta(hours=6)
"""How long a held day's data must stay unchanged before the day counts as complete. A source that
has stalled may continue later.
"""

ENOUGH_NEIGHBOURS = 2
"""Minimum number of days to compare with, because a single one may be wrong itself."""

OTHER_WEEKDAY_RATIO = 0.6
"""Lowest ratio of a weekend day's downloads to those of a working day."""

NEAREST_DAYS = 360
"""Number of days that determine the normal level around a day. PyPI grows, so the level differs
from year to year.
"""

DAYS_PER_PEAK = 20
"""The highest level is the number of downloads that one day in 20 exceeds. A few wrong days do not
change it.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    deviation: str | None
    """How the day deviates from its neighbours, or None if it does not."""

    is_step: bool = False
    """True if so many adjacent days deviate in the same way that they form a new level."""

    @property
    def reason(self) -> str | None:
        """Reason to hold the day, or None if it can be published."""
        return None if self.is_step else self.deviation


@dataclass(frozen=True, slots=True)
class _Neighbours:
    """Days that a day is compared with."""

    name: str
    days: Sequence[DayFigures]
    tolerance: float
    """Factor from 0 to 1 that allows for other weekdays. Lower limits are multiplied by it, and
    upper limits divided by it. For the limits of a step it is the reverse, so they become narrower.
    """


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A day's figures as ratios to those of its neighbours."""

    packages: float
    downloads: float
    deviation: str | None
    can_be_step: bool
    """True if a real change can produce these ratios."""


@dataclass(frozen=True, slots=True)
class _Level:
    """The normal level around a day, among days of its definition."""

    normal: Mapping[date, DayFigures]
    """Days with a normal level."""

    highest_published: int
    highest_read: int
    """Highest levels of downloads: of published days, and of all days that were read."""


class KnownDays:
    """The days that were read so far. A day is judged by comparing it with them."""

    def __init__(
        self,
        published: Mapping[date, DayFigures],
        held: Mapping[date, HeldDay],
        policy: PublishPolicy,
    ) -> None:
        # Days of other followed packages can't be compared.
        self._published = {day: one for day, one in published.items() if policy.follows_alike(one)}
        self._held = held
        self._thresholds = policy.thresholds
        self._least_judged_downloads = policy.least_judged_downloads
        self._events = policy.events
        self._read: dict[Definition, list[DayFigures]] = defaultdict(list)
        """Published days and held days without wrong rows, in order. If a day is both published and
        held, the held one comes last.
        """
        read = [*self._published.values(), *held.values()]
        for figures in sorted(read, key=lambda one: one.day):
            definition = self._definition(figures)
            is_wrong = isinstance(figures, HeldDay) and figures.wrong_rows
            if definition is not None and not is_wrong:
                self._read[definition].append(figures)
        self._levels: dict[tuple[Definition, int], _Level] = {}

    def judge(self, figures: DayFigures) -> Verdict:
        """Compare a day with its neighbours.

        The day is part of a new level if at least `step_days` days in a row deviate in the same
        way. Only days that are published, or held and settled, are counted.
        """
        comparison = self._measure(figures)
        if comparison is None or comparison.deviation is None:
            return Verdict(None)
        if not comparison.can_be_step or self._deviation_from_level(figures, only_published=True):
            return Verdict(comparison.deviation)
        similar_days = self._count_similar(figures.day, comparison)
        itself = self._held.get(figures.day)
        if itself and itself.digest == figures.digest and has_settled(itself):
            similar_days += 1
        return Verdict(comparison.deviation, is_step=similar_days >= self._thresholds.step_days)

    def suspects(self, first_day: date) -> dict[date, str]:
        """Return the published days from `first_day` on that deviate, with the reason.

        These days were published as a new level, by force, or before they had neighbours. A day
        that agrees with its neighbours is also suspect if other days have far more downloads,
        because a source can lose downloads of many days, but not invent them.
        """
        suspects = {}
        for day, figures in self._published.items():
            if day >= first_day:
                comparison = self._measure(figures)
                reason = comparison.deviation if comparison else None
                reason = reason or self._deviation_from_level(figures, only_published=False)
                if reason:
                    suspects[day] = reason
        return suspects

    def _deviation_from_level(self, figures: DayFigures, *, only_published: bool) -> str | None:
        """Describe how far a day is below the highest level around it, or return None if a real
        change can explain it. This detects several changes in a row that are each small enough to
        be real.
        """
        definition = self._definition(figures)
        # If downloads may rise to any level for some days, the highest level is not the normal one.
        if definition is None or self._thresholds.max_step_ratio == inf:
            return None
        level = self._level(figures.day, definition)
        highest = level.highest_published if only_published else level.highest_read
        least = self._thresholds.min_step_ratio * OTHER_WEEKDAY_RATIO
        where = "on the days with the most downloads"
        return _ratio("downloads", figures.downloads, [highest], where, (least, inf))[1]

    def _measure(self, figures: DayFigures) -> _Comparison | None:
        """Compare a day with its neighbours. Return None if it has none."""
        definition = self._definition(figures)
        if definition is None:
            return None
        if not _is_mixed(definition):
            neighbours = self._neighbours(figures.day, definition)
            if neighbours:
                return self._compare(figures, neighbours, self._thresholds)
        return self._measure_across(figures, definition)

    def _measure_across(self, figures: DayFigures, own: Definition) -> _Comparison | None:
        """Compare a day with days of other definitions before and after it.

        Either the definition of the day applies to only a part of it, or the day is the first one
        with its definition. So its figures only have to reach `min_step_ratio` times the lower of
        the levels before and after it. If there are days on one side only, their level counts. No
        real change lowers the figures further.
        """
        least = self._thresholds.min_step_ratio
        step = (self._thresholds.min_step_ratio, self._thresholds.max_step_ratio)
        least_packages = min(self._thresholds.min_packages_ratio, least)
        limits = Thresholds(least_packages, inf, least, inf, *step, self._thresholds.step_days)
        sides = [
            comparison
            for definition in self._definitions_beside(figures.day, own)
            if (neighbours := self._neighbours(figures.day, definition))
            and (comparison := self._compare(figures, neighbours, limits))
        ]
        return max(sides, key=lambda side: side.deviation is None, default=None)

    def _compare(
        self, figures: DayFigures, neighbours: _Neighbours, limits: Thresholds
    ) -> _Comparison | None:
        """Return None if the neighbours have too few downloads to judge the day."""
        usual = median_high(one.downloads for one in neighbours.days)
        is_judged = usual >= self._least_judged_downloads
        return _compare(figures, neighbours, limits) if is_judged else None

    def _definitions_beside(self, day: date, own: Definition) -> Iterator[Definition]:
        """Yield the nearest other definition before a day, and the nearest one after it."""
        days = sorted(self._published)
        before, after = [one for one in days if one < day], [one for one in days if one > day]
        for beside in (before[::-1], after):
            definitions = (self._definition(self._published[one]) for one in beside)
            others = (one for one in definitions if one is not None and one != own)
            yield from islice((one for one in others if not _is_mixed(one)), 1)

    def _neighbours(self, day: date, definition: Definition) -> _Neighbours | None:
        """Choose the normal days that are most similar to a day. Return None if there are none.

        The same weekday is best, because a weekend day has some 0.6 times the downloads of a
        working day. But several days that are less similar are better than a single one, which can
        be incomplete.
        """
        normal = self._level(day, definition).normal
        weeks = [day + timedelta(weeks=n) for n in range(-WEEKS_AROUND, WEEKS_AROUND + 1) if n]
        around = [day + timedelta(days=n) for n in range(-6, 7) if n]
        similar = [one for one in around if _is_weekend(one) == _is_weekend(day)]
        others = [one for one in normal if one != day]

        def choices() -> Iterator[_Neighbours]:
            """Yield the choices one by one, because the first ones are usually enough."""
            for name, days, tolerance in (
                (f"{day:%A}s", weeks, 1.0),
                ("the days around it", similar, 1.0),
                ("the days around it", around, OTHER_WEEKDAY_RATIO),
                (f"{day:%A}s", [one for one in others if one.weekday() == day.weekday()], 1.0),
                ("all days", others, OTHER_WEEKDAY_RATIO),
            ):
                yield _Neighbours(name, [normal[one] for one in days if one in normal], tolerance)

        for enough in range(ENOUGH_NEIGHBOURS, 0, -1):
            for neighbours in choices():
                if len(neighbours.days) >= enough:
                    return neighbours
        return None

    def _level(self, day: date, definition: Definition) -> _Level:
        read = self._read[definition]
        middle = bisect_left(read, day, key=lambda one: one.day)
        first = max(0, min(middle - NEAREST_DAYS // 2, len(read) - NEAREST_DAYS))
        # Reuse the level for 30 days: it changes little, and takes 0.2 ms to compute.
        first -= first % 30
        if (definition, first) not in self._levels:
            nearest = read[first : first + NEAREST_DAYS]
            self._levels[definition, first] = self._describe_level(nearest)
        return self._levels[definition, first]

    def _describe_level(self, read: Sequence[DayFigures]) -> _Level:
        """Choose the days of normal level among days of one definition.

        The normal level is the median of the published days. If the median of all days that were
        read is far higher, the database began with incomplete days, and the higher median is the
        normal level.
        """
        days = {one.day: one for one in read if not isinstance(one, HeldDay)}
        last_read = {one.day: one for one in read}
        if not days:
            return _Level({}, 0, 0)
        highest_published, highest_read = _highest(days.values()), _highest(last_read.values())
        level = median_high(one.downloads for one in days.values())
        most = median_low(one.downloads for one in last_read.values())
        if most > self._thresholds.max_step_ratio * level:
            days, level = last_read, most
        least = self._thresholds.min_step_ratio * OTHER_WEEKDAY_RATIO * level
        greatest = self._thresholds.max_step_ratio / OTHER_WEEKDAY_RATIO * level
        normal = {day: one for day, one in days.items() if least <= one.downloads <= greatest}
        return _Level(normal, highest_published, highest_read)

    def _definition(self, figures: DayFigures) -> Definition | None:
        """Return the definition of a download by which a day was counted. Only days of the same
        definition are compared. Sample days have none, and are never judged.
        """
        if figures.source == IngestSource.SAMPLE:
            return None
        return self._events.definition(figures.day, figures.counted_files)

    def _count_similar(self, day: date, comparison: _Comparison) -> int:
        """Count the consecutive days before and after a day that deviate to the same degree. Only
        published days, and held days that have settled, count.
        """
        count = 0
        for step in (timedelta(days=-1), timedelta(days=1)):
            other = day + step
            while figures := self._published.get(other) or self._held.get(other):
                if isinstance(figures, HeldDay) and not has_settled(figures):
                    break
                around = self._measure(figures)
                if not (around and around.deviation and self._agree(comparison, around)):
                    break
                count += 1
                other += step
        return count

    def _agree(self, one: _Comparison, other: _Comparison) -> bool:
        # A ratio to 0 downloads does not exist.
        if not other.downloads:
            return not one.downloads
        limits = self._thresholds
        packages, downloads = one.packages / other.packages, one.downloads / other.downloads
        return (
            limits.min_packages_ratio <= packages <= limits.max_packages_ratio
            and limits.min_downloads_ratio <= downloads <= limits.max_downloads_ratio
        )


def has_settled(held: HeldDay) -> bool:
    """Return True if no row was wrong, and the source's data has not changed for
    `SETTLED_AFTER`.
    """
    return held.read_at - held.same_since >= SETTLED_AFTER and not held.wrong_rows


def _compare(figures: DayFigures, neighbours: _Neighbours, limits: Thresholds) -> _Comparison:
    tolerance, days = neighbours.tolerance, neighbours.days
    where = f"on {neighbours.name}"
    packages, wrong_packages = _ratio(
        *("packages", figures.packages, [day.packages for day in days], where),
        (limits.min_packages_ratio * tolerance, limits.max_packages_ratio / tolerance),
    )
    downloads, wrong_downloads = _ratio(
        *("downloads", figures.downloads, [day.downloads for day in days], where),
        (limits.min_downloads_ratio * tolerance, limits.max_downloads_ratio / tolerance),
    )
    least, most = limits.min_step_ratio / tolerance, limits.max_step_ratio * tolerance
    return _Comparison(
        packages,
        downloads,
        wrong_packages or wrong_downloads,
        can_be_step=least <= packages <= most and least <= downloads <= most,
    )


def _ratio(
    name: str, amount: int, others: Sequence[int], where: str, limits: tuple[float, float]
) -> tuple[float, str | None]:
    """Return the ratio of a figure to the median of others, and a description if the ratio is
    outside the limits. `where` says where the others were counted.

    An even number of others has two medians, and all figures between them are normal: in the middle
    of a step, one is the old level and one is the new level.
    """
    usual = min(max(amount, median_low(others)), median_high(others))
    # The median is 0 if mirrors made all downloads.
    ratio = amount / max(usual, 1)
    least, most = limits
    if least <= ratio <= most:
        return ratio, None
    bound = f"minimum {least:.2f}" if ratio < least else f"maximum {most:.2f}"
    return ratio, f"{amount:,} {name} instead of {usual:,} {where}: a ratio of {ratio:.2f}, {bound}"


def _highest(days: Collection[DayFigures]) -> int:
    return sorted((one.downloads for one in days), reverse=True)[len(days) // DAYS_PER_PEAK]


def _is_mixed(definition: Definition) -> bool:
    """Return True if a change of the definition applies to only a part of the day."""
    return any(is_partial for _, is_partial in definition)


def _is_weekend(day: date) -> bool:
    return day.weekday() >= 5
