"""Checks the rows of a source, and converts the valid ones for staging."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import compress
from typing import Any, NamedTuple

import orjson

from app.db.repositories.ingest_repository import StagedRow, counts_text, staged_rows
from app.domain.breakdowns import COLUMNS_OF_ONE_PACKAGE
from app.domain.downloads import Batch, Counts, UnparsedDownloads
from app.domain.package_name import is_valid
from app.domain.row_checks import (
    IMPOSSIBLE_TOTALS,
    NO_SUM,
    RowFault,
    are_possible,
    fault_of_counts,
)

KNOWN_TEXTS = 16_000
"""Size of the LRU of checked texts per column, which takes some 10 MB."""

NOT_A_NAME = RowFault("not the name of a package")


@dataclass(slots=True)
class RejectedRows:
    """Rows that are not staged, by reason."""

    names: int = 0
    """Number of rows without a valid package name. Every day has some."""

    counts: Counter[str] = field(default_factory=Counter)
    """Numbers of rows with wrong counts, by fault. A valid day has none."""

    examples: dict[str, Sequence[object]] = field(default_factory=dict)
    """One row for each fault. The package is the first value."""

    values: dict[str, object] = field(default_factory=dict)
    """The wrong value in that row, by fault."""

    @property
    def rows(self) -> int:
        return self.names + self.counts.total()

    @property
    def fault_kind(self) -> str | None:
        """The most frequent fault of counts, or None."""
        return self.counts.most_common(1)[0][0] if self.counts else None

    def describe_counts(self) -> str | None:
        fault_kind = self.fault_kind
        if fault_kind is None:
            return None
        package, *_ = self.examples[fault_kind]
        value = self.values[fault_kind]
        what = fault_kind if value is None else f"{fault_kind} ({value!r:.100})"
        return f"{self.counts.total():,} rows are wrong: {what}, such as that of {package}"


class RowCheck:
    """Checks the rows of a day, which all have the same columns."""

    def __init__(self, columns: Sequence[str], rejected: RejectedRows) -> None:
        self._rejected = rejected
        self._columns = columns
        self._check_texts = [_check_of(column) for column in columns]

    def staged(self, batch: Batch) -> list[StagedRow]:
        """Return the valid rows, converted for staging. Count the others as rejected."""
        if not batch:
            return []
        given: Sequence[Sequence[object]]
        if isinstance(batch, UnparsedDownloads):
            packages, given = batch.packages, batch.breakdowns
            with_mirrors, without_mirrors = batch.with_mirrors, batch.without_mirrors
            checks = zip(self._check_texts, batch.breakdowns, strict=True)
            checked = [list(map(check, texts)) for check, texts in checks]
        else:
            packages, with_mirrors, without_mirrors, breakdowns = zip(*batch, strict=True)
            given = [[counts.get(column) for counts in breakdowns] for column in self._columns]
            checked = [
                [_check_counts(column, counts.get(column)) for counts in breakdowns]
                for column in self._columns
            ]
        texts = []
        are_right = all(map(is_valid, packages)) and are_possible(with_mirrors, without_mirrors)
        for column in checked:
            faults, downloads, column_texts = zip(*column, strict=True)
            are_right = are_right and not any(faults) and downloads == tuple(without_mirrors)
            texts.append(column_texts)
        staged = staged_rows(packages, with_mirrors, without_mirrors, texts)
        # Nearly all batches are valid, and checking by column takes a third of the time.
        if are_right:
            return list(staged)
        rows = zip(packages, with_mirrors, without_mirrors, *given, strict=True)
        checked_rows = zip(rows, zip(*checked, strict=True), strict=True)
        return list(compress(staged, [self._is_right(*one) for one in checked_rows]))

    def _is_right(self, row: tuple[Any, ...], checked: Sequence["_CheckedCounts"]) -> bool:
        fault = self._fault(row, checked)
        if fault is None:
            return True
        if fault == NOT_A_NAME:
            self._rejected.names += 1
        else:
            self._rejected.counts[fault.kind] += 1
        self._rejected.examples.setdefault(fault.kind, row)
        self._rejected.values.setdefault(fault.kind, fault.value)
        return False

    def _fault(self, row: tuple[Any, ...], checked: Sequence["_CheckedCounts"]) -> RowFault | None:
        package, with_mirrors, without_mirrors, *_ = row
        if not is_valid(package):
            return NOT_A_NAME
        if not are_possible([with_mirrors], [without_mirrors]):
            return RowFault(IMPOSSIBLE_TOTALS, (with_mirrors, without_mirrors))
        for column, counts in zip(self._columns, checked, strict=True):
            if counts.fault or counts.downloads != without_mirrors:
                return counts.fault or RowFault(f"{column} {NO_SUM}", counts.downloads)
        return None


class _CheckedCounts(NamedTuple):
    """The result of checking a package's counts of one breakdown: a fault, or their sum and their
    stored text.
    """

    fault: RowFault | None
    downloads: int = 0
    text: str = ""


def _check_of(column: str) -> Callable[[str], _CheckedCounts]:
    """Return the function that checks a column's texts. Its results are cached, unless every
    package has texts of its own.
    """
    check = partial(_check_text, column)
    return check if column in COLUMNS_OF_ONE_PACKAGE else lru_cache(KNOWN_TEXTS)(check)


def _check_text(column: str, inside: str) -> _CheckedCounts:
    try:
        counts = orjson.loads(f"{{{inside}}}")
    except ValueError:
        return _CheckedCounts(RowFault(f"{column} is not an object", inside))
    return _check_counts(column, counts)


def _check_counts(column: str, counts: Counts | None) -> _CheckedCounts:
    fault = fault_of_counts(column, counts)
    if fault or counts is None:
        return _CheckedCounts(fault)
    return _CheckedCounts(None, sum(counts.values()), counts_text(counts))
