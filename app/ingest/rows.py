"""Checks the rows of a source, and prepares the valid ones for staging."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import compress
from operator import le
from typing import Any, NamedTuple

import orjson

from app.db.repositories.ingest_repository import StagedRow, counts_text, staged_rows
from app.domain.breakdowns import BREAKDOWNS, Breakdown
from app.domain.downloads import Batch, Counts, UnparsedDownloads
from app.domain.package_name import is_valid

MAX_DAILY_DOWNLOADS = 10**11
"""Maximum downloads of a package per day. All of PyPI has some 10**9 to 10**10."""

KNOWN_TEXTS = 16_000
"""Size of the LRU of checked texts per column, which takes some 10 MB."""

MAX_SEEN_CATEGORIES = 10_000

NOT_A_NAME = "not the name of a package"

_INTEGERS = frozenset({int})
"""Types of valid counts. `bool` is excluded, although it is a subclass of `int`."""


@dataclass(slots=True)
class Rejected:
    """Rows that are not staged, by reason."""

    names: int = 0
    """Number of rows without a valid package name. Every day has some."""

    counts: Counter[str] = field(default_factory=Counter)
    """Numbers of rows with wrong counts, by fault. A valid day has none."""

    examples: dict[str, Sequence[object]] = field(default_factory=dict)
    """The values of one row for each fault. The package is the first value."""

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
    """Checks the rows of a day, which all have the same columns."""

    def __init__(self, columns: Sequence[str], rejected: Rejected) -> None:
        self._rejected = rejected
        self._columns = columns
        self._check_texts = [_check_of(column) for column in columns]

    def staged(self, batch: Batch) -> list[StagedRow]:
        """Return the valid rows in the form that is staged. Count the others as rejected."""
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
        # Nearly all batches are valid, and checking by column takes a third of the time.
        if are_right:
            return list(staged)
        counts_of_rows = zip(*checked, strict=True)
        rows = zip(packages, with_mirrors, without_mirrors, *given, strict=True)
        right = [
            self._is_right(row, counts) for row, counts in zip(rows, counts_of_rows, strict=True)
        ]
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

    def _is_right(self, row: tuple[Any, ...], checked: Sequence["_Checked"]) -> bool:
        fault = self._fault(row, checked)
        if fault is None:
            return True
        if fault == NOT_A_NAME:
            self._rejected.names += 1
        else:
            self._rejected.counts[fault] += 1
        self._rejected.examples.setdefault(fault, row)
        return False

    def _fault(self, row: tuple[Any, ...], checked: Sequence["_Checked"]) -> str | None:
        """Describe what is wrong with a row, or return None if it is valid."""
        package, with_mirrors, without_mirrors, *_ = row
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
    """The result of checking a package's counts of one breakdown."""

    fault: str | None
    downloads: int = 0
    """Sum of the counts."""

    text: str = ""
    """The counts as they are staged."""


class _Columns(NamedTuple):
    """The columns of a batch."""

    packages: Sequence[str]
    with_mirrors: Sequence[int]
    without_mirrors: Sequence[int]

    given: Sequence[Sequence[object]]
    """Counts of each package as the source returned them, by breakdown."""

    checked: Sequence[Sequence[_Checked]]
    """Results of checking these counts, by breakdown."""


_BREAKDOWNS = {breakdown.column: breakdown for breakdown in BREAKDOWNS}

_seen: Mapping[str, set[str]] = {column: set() for column in _BREAKDOWNS}
"""Valid categories by column. Nearly all rows have only these, and a comparison of sets takes a
fraction of the time of checking each category.
"""


def _check_of(column: str) -> Callable[[str], _Checked]:
    """Return the check of a column's texts. It is cached unless each package has its own text."""
    check = partial(_check_text, column)
    return check if _BREAKDOWNS[column].is_of_one_package else lru_cache(KNOWN_TEXTS)(check)


def _check_text(column: str, inside: str) -> _Checked:
    try:
        counts = orjson.loads(f"{{{inside}}}")
    except ValueError:
        return _Checked(f"{column} is not an object")
    return _check_counts(column, counts)


def _check_counts(column: str, counts: Counts | None) -> _Checked:
    if counts is None:
        return _Checked(f"{column} is missing")
    if not _are_categories(_BREAKDOWNS[column], counts):
        return _Checked(f"{column} has an unknown category, or too many")
    downloads = counts.values()
    if not (_INTEGERS.issuperset(map(type, downloads)) and min(downloads, default=1) > 0):
        return _Checked(f"{column} has a count that is not a positive integer")
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
