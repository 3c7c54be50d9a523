"""What a source's rows have to be, and what is staged of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from operator import call
from typing import NamedTuple

import orjson

from app.breakdowns import BREAKDOWNS, Breakdown
from app.db.ingest_repository import StagedRow, counts_text
from app.downloads import Counts, DownloadsRow, UnparsedDownloads
from app.package_name import is_valid

MAX_DAILY_DOWNLOADS = 10**11
"""Of one package. All of PyPI together has some 10**9 to 10**10 a day."""

KNOWN_TEXTS = 16_000
"""Different texts of a column's counts that are kept for rows to come, with what was found out
about them: some 10 MB a column.
"""

MAX_SEEN_CATEGORIES = 10_000

_INTEGERS = frozenset({int})
"""Without `bool`, which is one by inheritance."""


@dataclass(slots=True)
class Rejected:
    """Rows that are not staged."""

    names: int = 0
    """Without the name of a package. Of these there always are some."""

    counts: Counter[str] = field(default_factory=Counter)
    """By what is wrong with their counts. Of these there is none in a day that is right."""

    examples: dict[str, DownloadsRow] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.names + self.counts.total()

    def describe_counts(self) -> str | None:
        if not self.counts:
            return None
        fault, _ = self.counts.most_common(1)[0]
        package = self.examples[fault].package
        return f"{self.counts.total():,} rows are wrong: {fault}, such as that of {package}"


class RowCheck:
    """Of a day whose rows all should have the same columns."""

    def __init__(self, columns: Sequence[str], rejected: Rejected) -> None:
        self._rejected = rejected
        self._columns = columns
        self._check_texts = [_check_of(column) for column in columns]

    def staged(self, rows: Sequence[DownloadsRow]) -> list[StagedRow]:
        """What is staged of the rows. Those that are wrong are noted, and left out."""
        staged: list[StagedRow] = []
        for row in rows:
            if is_valid(row.package):
                outcome = self.check(row)
                if not isinstance(outcome, str):
                    staged.append(outcome)
                    continue
                self._rejected.counts[outcome] += 1
            else:
                outcome = "not the name of a package"
                self._rejected.names += 1
            self._rejected.examples.setdefault(outcome, row)
        return staged

    def check(self, row: DownloadsRow) -> StagedRow | str:
        """The row as it is staged, or what is wrong with its counts."""
        package, with_mirrors, without_mirrors, _ = row
        if not (0 <= without_mirrors <= with_mirrors and 1 <= with_mirrors <= MAX_DAILY_DOWNLOADS):
            return "an impossible number of downloads"
        if isinstance(row, UnparsedDownloads):
            checked = map(call, self._check_texts, row.breakdowns)
        else:
            checked = map(_check_counts, self._columns, map(row.breakdowns.get, self._columns))
        staged: list[str | int] = [package, with_mirrors, without_mirrors]
        for column, (fault, downloads, text) in zip(self._columns, checked, strict=True):
            if fault or downloads != without_mirrors:
                return fault or f"{column} does not add up to the downloads"
            staged.append(text)
        return staged


class _Checked(NamedTuple):
    """Counts that were looked at."""

    fault: str | None
    downloads: int = 0
    """Their sum."""

    text: str = ""
    """As they are stored."""


_BREAKDOWNS = {breakdown.column: breakdown for breakdown in BREAKDOWNS}

_seen: Mapping[str, set[str]] = {column: set() for column in _BREAKDOWNS}
"""By column, categories that there are. Nearly all of a row's are among them, which takes a
fraction of the time of looking at each.
"""


def _check_of(column: str) -> Callable[[str], _Checked]:
    """The check of a column's texts. It remembers those that are not of one package alone."""
    check = partial(_check_text, column)
    return check if _BREAKDOWNS[column].is_of_one_package else lru_cache(KNOWN_TEXTS)(check)


def _check_text(column: str, inside: str) -> _Checked:
    try:
        counts = orjson.loads(f"{{{inside}}}")
    except ValueError:
        return _Checked(f"{column} is no object")
    return _check_counts(column, counts)


def _check_counts(column: str, counts: Counts | None) -> _Checked:
    if counts is None:
        return _Checked(f"{column} is missing")
    if not _are_categories(_BREAKDOWNS[column], counts):
        return _Checked(f"{column} has a category that there is not, or too many")
    downloads = counts.values()
    if not (_INTEGERS.issuperset(map(type, downloads)) and min(downloads, default=1) > 0):
        return _Checked(f"{column} has what is no number of downloads")
    return _Checked(None, sum(downloads), counts_text(counts))


def _are_categories(breakdown: Breakdown, counts: Counts) -> bool:
    if breakdown.max_categories and len(counts) > breakdown.max_categories:
        return False
    seen = _seen[breakdown.column]
    if seen.issuperset(counts):
        return True
    for category in counts:
        if category not in seen:
            if not breakdown.is_category(category):
                return False
            if len(seen) < MAX_SEEN_CATEGORIES:
                seen.add(category)
    return True
