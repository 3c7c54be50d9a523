"""Converts counts of packages to the rows of a month."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.db.repositories.months_repository import COLUMNS, MonthRow
from app.domain.breakdowns import (
    BREAKDOWN_COLUMNS,
    BREAKDOWNS,
    COLUMNS_OF_ONE_PACKAGE,
    OTHER_CATEGORY,
)
from app.domain.months import StoredMonth, ordered_categories, pack, unpack
from app.domain.package_name import ALL_PACKAGES

_LIMITS = {one.column: one.max_categories for one in BREAKDOWNS}


@dataclass(frozen=True, slots=True)
class MonthPacking:
    """Sums counts, and converts the sums to the form in which a month stores them."""

    columns: Sequence[str]
    """Columns of the breakdowns to sum."""

    categories: dict[str, list[str]]

    @classmethod
    def of(cls, all_packages: Mapping[str, str | None]) -> "MonthPacking":
        """Return the packing of a month, from the joined counts of `__all__` by column."""
        categories = {
            column: ordered_categories(_sum_counts(column, joined)) if joined else []
            for column, joined in all_packages.items()
        }
        return cls(list(all_packages), categories)

    def rows(self, packages: Sequence[Sequence[Any]]) -> list[MonthRow]:
        """Return the month's rows of packages. Each package is given by its name, its totals, and
        for each of the columns the counts of one or several days, joined by commas.
        """
        positions = {
            column: {category: position for position, category in enumerate(categories)}
            for column, categories in self.categories.items()
        }
        places = [
            self.columns.index(one) + 3 if one in self.columns else None
            for one in BREAKDOWN_COLUMNS
        ]
        return [
            (
                *row[:3],
                *(
                    None
                    if place is None or row[place] is None
                    else pack(_sum_counts(column, row[place]), positions[column])
                    for column, place in zip(BREAKDOWN_COLUMNS, places, strict=True)
                ),
            )
            for row in packages
        ]


def pack_again(
    month: StoredMonth, packages: Sequence[MonthRow]
) -> tuple[MonthPacking, list[MonthRow]]:
    """Return the rows of some packages of a stored month and their sum, the row of `__all__`."""
    columns = list(month.breakdowns)
    rows: list[Sequence[Any]] = []
    for package in packages:
        stored = dict(zip(COLUMNS, package, strict=True))
        rows.append([*package[:3], *(_unpacked(stored[one], month, one) for one in columns)])
    joined = {
        column: None
        if column in COLUMNS_OF_ONE_PACKAGE
        else ",".join(row[place] for row in rows if row[place] is not None) or None
        for place, column in enumerate(columns, start=3)
    }
    packing = MonthPacking.of(joined)
    if rows:
        totals = (sum(row[place] for row in rows) for place in (1, 2))
        rows.append([ALL_PACKAGES, *totals, *joined.values()])
    return packing, packing.rows(rows)


def _unpacked(stored: Any, month: StoredMonth, column: str) -> str | None:
    """Return a row's counts of a breakdown by category, as a text."""
    if stored is None:
        return None
    return orjson.dumps(unpack(orjson.loads(stored), month.categories.get(column, []))).decode()


def _sum_counts(column: str, joined: str) -> Mapping[str, int]:
    """Return the sums of the counts of several days."""
    sums: dict[str, int] = {}
    for counts in orjson.loads(f"[{joined}]"):
        for category, downloads in counts.items():
            sums[category] = sums.get(category, 0) + downloads
    limit = _LIMITS[column]
    return sums if limit is None or len(sums) <= limit else _most(sums, limit)


def _most(counts: dict[str, int], limit: int) -> Mapping[str, int]:
    """Return the `limit` categories with the most downloads, and the sum of the rest as `other`."""
    rest = counts.pop(OTHER_CATEGORY, 0)
    kept = ordered_categories(counts)[:limit]
    rest += sum(counts.values()) - sum(counts[category] for category in kept)
    most = {category: counts[category] for category in kept}
    return most | {OTHER_CATEGORY: rest} if rest else most
