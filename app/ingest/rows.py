"""What a source's rows have to be, and what is staged of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import compress
from operator import le
from typing import NamedTuple

import orjson

from app.db.repositories.ingest_repository import StagedRow, counts_text, staged_rows
from app.domain.breakdowns import BREAKDOWNS, Breakdown
from app.domain.downloads import Batch, Counts, UnparsedDownloads
from app.domain.package_name import is_valid

MAX_DAILY_DOWNLOADS = 10**11
"""Of one package. All of PyPI together has some 10**9 to 10**10 a day."""

KNOWN_TEXTS = 16_000
"""Different texts of a column's counts that are kept for rows to come, with what was found out
about them: some 10 MB a column.
"""

MAX_SEEN_CATEGORIES = 10_000

NOT_A_NAME = "not the name of a package"

_INTEGERS = frozenset({int})
"""Without `bool`, which is one by inheritance."""


@dataclass(slots=True)
class Rejected:
    """Rows that are not staged."""

    names: int = 0
    """Without the name of a package. Of these there always are some."""

    counts: Counter[str] = field(default_factory=Counter)
    """By what is wrong with their counts. Of these there is none in a day that is right."""

    examples: dict[str, Sequence[object]] = field(default_factory=dict)
    """By what is wrong, the values of a row, of which the package is the first."""

    @property
    def rows(self) -> int:
        return self.names + self.counts.total()

    def describe_counts(self) -> str | None:
        if not self.counts:
            return None
        fault, _ = self.counts.most_common(1)[0]
        package, *_ = self.examples[fault]
        return f"{self.counts.total():,} rows are wrong: {fault}, such as that of {package}"


class RowCheck:
    """Of a day whose rows all should have the same columns."""

    def __init__(self, columns: Sequence[str], rejected: Rejected) -> None:
        self._rejected = rejected
        self._columns = columns
        self._check_texts = [_check_of(column) for column in columns]

    def staged(self, batch: Batch) -> list[StagedRow]:
        """What is staged of the rows. Those that are wrong are noted, and left out."""
        if not batch:
            return []
        packages, with_mirrors, without_mirrors, given, checked = self._by_column(batch)
        texts = []
        are_right = all(map(is_valid, packages)) and _are_possible(with_mirrors, without_mirrors)
        for column in checked:
            faults, downloads, column_texts = zip(*column, strict=True)
            are_right = are_right and not any(faults) and downloads == tuple(without_mirrors)
            texts.append(column_texts)
        staged = staged_rows(packages, with_mirrors, without_mirrors, texts)
        # Nearly always they are, which takes a third of the time to find out column by column.
        if are_right:
            return list(staged)
        of_rows = zip(*given, strict=True), zip(*checked, strict=True)
        rows = zip(packages, with_mirrors, without_mirrors, *of_rows, strict=True)
        right = [self._is_right(*row) for row in rows]
        return list(compress(staged, right))

    def _by_column(self, batch: Batch) -> "_Columns":
        if isinstance(batch, UnparsedDownloads):
            checks = zip(self._check_texts, batch.breakdowns, strict=True)
            return _Columns(
                batch.packages,
                batch.with_mirrors,
                batch.without_mirrors,
                batch.breakdowns,
                [list(map(check, texts)) for check, texts in checks],
            )
        packages, with_mirrors, without_mirrors, breakdowns = zip(*batch, strict=True)
        given = [[counts.get(column) for counts in breakdowns] for column in self._columns]
        checked = [
            [_check_counts(column, counts) for counts in of_column]
            for column, of_column in zip(self._columns, given, strict=True)
        ]
        return _Columns(packages, with_mirrors, without_mirrors, given, checked)

    def _is_right(
        self,
        package: str,
        with_mirrors: int,
        without_mirrors: int,
        given: Sequence[object],
        checked: Sequence["_Checked"],
    ) -> bool:
        fault = self._fault(package, with_mirrors, without_mirrors, checked)
        if fault is None:
            return True
        if fault == NOT_A_NAME:
            self._rejected.names += 1
        else:
            self._rejected.counts[fault] += 1
        example = package, with_mirrors, without_mirrors, *given
        self._rejected.examples.setdefault(fault, example)
        return False

    def _fault(
        self,
        package: str,
        with_mirrors: int,
        without_mirrors: int,
        checked: Sequence["_Checked"],
    ) -> str | None:
        """What is wrong with a row."""
        if not is_valid(package):
            return NOT_A_NAME
        if not _are_possible([with_mirrors], [without_mirrors]):
            return "an impossible number of downloads"
        for column, counts in zip(self._columns, checked, strict=True):
            if counts.fault or counts.downloads != without_mirrors:
                return counts.fault or f"{column} does not add up to the downloads"
        return None


def _are_possible(with_mirrors: Sequence[int], without_mirrors: Sequence[int]) -> bool:
    return (
        min(without_mirrors) >= 0
        and min(with_mirrors) >= 1
        and max(with_mirrors) <= MAX_DAILY_DOWNLOADS
        and all(map(le, without_mirrors, with_mirrors))
    )


class _Checked(NamedTuple):
    """Counts that were looked at."""

    fault: str | None
    downloads: int = 0
    """Their sum."""

    text: str = ""
    """As they are staged."""


class _Columns(NamedTuple):
    """Of a batch."""

    packages: Sequence[str]
    with_mirrors: Sequence[int]
    without_mirrors: Sequence[int]

    given: Sequence[Sequence[object]]
    """By column, each package's counts as the source has them."""

    checked: Sequence[Sequence[_Checked]]
    """The same, looked at."""


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
