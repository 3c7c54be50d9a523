"""Compares a day's figures with those of other days, as ratios."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_high, median_low

from app.domain.downloads import DayFigures
from app.ingest.policy import Thresholds


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Days that a day is compared with."""

    name: str
    days: Sequence[DayFigures]
    room: float = 1.0
    """Factor that widens the limits, for days that differ by nature."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A day's figures as ratios to those of its neighbours."""

    packages: float
    downloads: float
    fault: str | None
    """Description of the figure that is outside its limits, or None."""

    can_be_step: bool
    """True if a real change can produce these ratios."""


def compare(figures: DayFigures, neighbours: Neighbours, limits: Thresholds) -> Measured:
    packages = Ratio("packages", figures.packages, [day.packages for day in neighbours.days])
    downloads = Ratio("downloads", figures.downloads, [day.downloads for day in neighbours.days])
    room = neighbours.room
    fault = packages.fault(
        limits.min_packages_ratio * room, limits.max_packages_ratio / room
    ) or downloads.fault(limits.min_downloads_ratio * room, limits.max_downloads_ratio / room)
    return Measured(
        packages.value,
        downloads.value,
        f"{fault} of {neighbours.name}" if fault else None,
        can_be_step=all(
            limits.min_step_ratio / room <= one.value <= limits.max_step_ratio * room
            for one in (packages, downloads)
        ),
    )


class Ratio:
    """The ratio of a figure to the median of others.

    An even number of others has two medians, and anything between them is normal: in the middle of
    a step one is the old level and one the new.
    """

    def __init__(self, name: str, amount: int, others: Sequence[int]) -> None:
        self._name = name
        self._amount = amount
        self._usual = min(max(amount, median_low(others)), median_high(others))
        # The median is 0 if mirrors made all downloads.
        self.value = amount / max(self._usual, 1)

    def fault(self, least: float, most: float) -> str | None:
        """Describe the ratio if it is outside the limits."""
        if least <= self.value <= most:
            return None
        bound = f"less than {least:.2f}" if self.value < least else f"more than {most:.2f}"
        ratio = f"{bound} times ({self.value:.2f})"
        return f"{self._amount:,} {self._name} are {ratio} the {self._usual:,}"
