"""Counts of the faults and findings of the suite, for its summary."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    faults: Counter[str] = field(default_factory=Counter)
    """Injected, by kind."""

    answers: int = 0
    """Number of responses that were compared with the truth."""

    days_lost: int = 0
    """Days that should be published in the end and are not, or not wholly."""

    double_counts: int = 0
    """Stored figures above the truth."""

    wrong_answers: int = 0
    """Neither right for what was published at some time, nor a 503 that says when to come again."""

    notes: list[str] = field(default_factory=list)
    """Measured on the way."""

    @property
    def is_clean(self) -> bool:
        return not (self.days_lost or self.double_counts or self.wrong_answers)

    def __str__(self) -> str:
        return (
            f"faults injected {self.faults.total()}, days lost {self.days_lost}, "
            f"double counts {self.double_counts}, wrong answers {self.wrong_answers}"
        )
