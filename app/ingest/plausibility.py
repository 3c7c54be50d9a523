"""Judges whether what a source gave for a day can be all of it.

The source lands late and in parts, and has had days that were half there, or twice. A day is
measured by the packages and the downloads of the same weekday in the weeks around it: PyPI has a
third less to do on weekends. Where there is no such day, other days of the week around it will do,
with more room. Where there is none either, as in an empty database, there is nothing to measure by.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median_high, median_low

from app.downloads import DayFigures, HeldDay
from app.settings import Settings

WEEKS_AROUND = 4

SETTLED_AFTER = timedelta(hours=6)
"""For which a held day has to come out the same: a source that stalls may go on."""

OTHER_WEEKDAY_RATIO = 0.6
"""The least that a weekend day has of a weekday's downloads."""

_WEEK = timedelta(days=7)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Ratios of a day's figures to what is usual, and how many days make a new level."""

    min_packages_ratio: float
    max_packages_ratio: float
    min_downloads_ratio: float
    max_downloads_ratio: float
    step_days: int


def thresholds_of(settings: Settings) -> Thresholds:
    return Thresholds(
        min_packages_ratio=settings.ingest_min_packages_ratio,
        max_packages_ratio=settings.ingest_max_packages_ratio,
        min_downloads_ratio=settings.ingest_min_downloads_ratio,
        max_downloads_ratio=settings.ingest_max_downloads_ratio,
        step_days=settings.ingest_step_days,
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """A day's figures as ratios to what is usual, and what is wrong with them."""

    packages: float
    downloads: float
    fault: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    departure: str | None
    """How the day departs from what is usual; None when it does not."""

    is_step: bool
    """Enough days next to it depart in the same way: this is usual now."""

    @property
    def reason(self) -> str | None:
        """Why not to publish the day; None when nothing speaks against it."""
        return None if self.is_step else self.departure


def judge(
    figures: DayFigures,
    published: Mapping[date, DayFigures],
    held: Mapping[date, HeldDay],
    thresholds: Thresholds,
) -> Verdict:
    """Whether the day looks like all of it.

    A level that really changed is recognised by the days next to it that depart from what is usual
    in the same way: those that are published, and those that are held and have settled.
    """
    measured = _measure(figures, published, thresholds)
    if measured is None or measured.fault is None:
        return Verdict(None, is_step=False)
    days_alike = sum(1 for _ in _alike(figures.day, measured, published, held, thresholds))
    itself = held.get(figures.day)
    if itself and itself.digest == figures.digest and has_settled(itself):
        days_alike += 1
    return Verdict(measured.fault, is_step=days_alike >= thresholds.step_days)


def has_settled(held: HeldDay) -> bool:
    """Whether the source has given the same for the day for so long that it may be all."""
    return held.read_at - held.same_since >= SETTLED_AFTER and not held.wrong_rows


def _measure(
    figures: DayFigures, published: Mapping[date, DayFigures], thresholds: Thresholds
) -> _Measured | None:
    weeks = range(-WEEKS_AROUND, WEEKS_AROUND + 1)
    usual = [published.get(figures.day + week * _WEEK) for week in weeks if week]
    found = [day for day in usual if day]
    room = 1.0
    name = f"{figures.day:%A}s"
    if not found:
        around = [published.get(figures.day + days * _DAY) for days in range(-7, 8) if days]
        found = [day for day in around if day]
        room = OTHER_WEEKDAY_RATIO
        name = "the days around it"
    if not found:
        return None
    packages = _Ratio(figures.packages, [day.packages for day in found])
    downloads = _Ratio(figures.downloads, [day.downloads for day in found])
    faults = (
        packages.fault(
            "packages", thresholds.min_packages_ratio * room, thresholds.max_packages_ratio / room
        ),
        downloads.fault(
            "downloads",
            thresholds.min_downloads_ratio * room,
            thresholds.max_downloads_ratio / room,
        ),
    )
    fault = next(filter(None, faults), None)
    return _Measured(packages.ratio, downloads.ratio, f"{fault} of {name}" if fault else None)


class _Ratio:
    """An amount next to the median of others. Where their number is even there are two of those,
    and between them all is usual: in the middle of a step one is the old level, one the new.
    """

    def __init__(self, amount: int, others: Sequence[int]) -> None:
        self._amount = amount
        self._usual = min(max(amount, median_low(others)), median_high(others))
        # Without mirrors a day may have no download.
        self.ratio = amount / max(self._usual, 1)

    def fault(self, what: str, least: float, most: float) -> str | None:
        if least <= self.ratio <= most:
            return None
        bound = f"less than {least:.2f}" if self.ratio < least else f"more than {most:.2f}"
        return f"{self._amount:,} {what} are {bound} times ({self.ratio:.2f}) the {self._usual:,}"


def _alike(
    day: date,
    measured: _Measured,
    published: Mapping[date, DayFigures],
    held: Mapping[date, HeldDay],
    thresholds: Thresholds,
) -> Iterator[date]:
    """The days on either side, without a break, that depart from what is usual as this one does."""
    for step in (-_DAY, _DAY):
        other = day + step
        while True:
            waiting = held.get(other)
            figures = published.get(other) or (
                waiting if waiting and has_settled(waiting) else None
            )
            around = _measure(figures, published, thresholds) if figures else None
            if around is None or around.fault is None or not _agree(measured, around, thresholds):
                break
            yield other
            other += step


def _agree(one: _Measured, other: _Measured, thresholds: Thresholds) -> bool:
    # Without a download neither is a ratio to anything.
    if not other.downloads:
        return not one.downloads
    return (
        thresholds.min_packages_ratio
        <= one.packages / other.packages
        <= thresholds.max_packages_ratio
        and thresholds.min_downloads_ratio
        <= one.downloads / other.downloads
        <= thresholds.max_downloads_ratio
    )
