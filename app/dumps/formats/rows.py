"""Checks of the rows of dumps, which are the same for all formats."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from app.domain.breakdowns import BREAKDOWN_COLUMNS, REQUIRED_COLUMNS
from app.domain.downloads import Counts, PackageDownloads
from app.domain.months import Month, Period
from app.domain.row_checks import (
    IMPOSSIBLE_TOTALS,
    NO_SUM,
    are_possible,
    fault_of_counts,
    respelled,
)
from app.dumps.formats import limits
from app.dumps.listing import DAY_COLUMN, MONTH_COLUMN, TOTAL_COLUMNS
from app.errors import MalformedDumpError

Rows = Sequence[PackageDownloads]
RowWriter = Callable[[Rows], None]


def checked_row(place: str, values: Mapping[str, Any], period: Period) -> PackageDownloads:
    """Convert a row of a file, given as values by column. A null or empty breakdown counts as
    missing, and a text is parsed as JSON.

    Raises `MalformedDumpError`.
    """
    package = values.get("package")
    if type(package) is not str or len(package) > limits.MAX_PACKAGE_CHARACTERS:
        raise MalformedDumpError(
            f"package should be a name of at most {limits.MAX_PACKAGE_CHARACTERS:,} characters",
            place=place,
            value=package,
        )
    place = f"{place}, package {package!r:.100}"
    _check_period(place, values, period)
    for column in TOTAL_COLUMNS[1:]:
        if type(count := values.get(column)) is not int:
            raise MalformedDumpError(f"{column} should be an integer", place=place, value=count)
    with_mirrors, without_mirrors = values["with_mirrors"], values["without_mirrors"]
    if not are_possible([with_mirrors], [without_mirrors]):
        raise MalformedDumpError(
            f"with_mirrors and without_mirrors are {IMPOSSIBLE_TOTALS}",
            place=place,
            value=(with_mirrors, without_mirrors),
        )
    breakdowns = {}
    for column in BREAKDOWN_COLUMNS:
        given = values.get(column)
        if given and type(given) is str:
            given = parse_json(f"{place}, {column}", given.strip().encode())
        if given not in (None, "") or column in REQUIRED_COLUMNS:
            breakdowns[column] = _checked_counts(place, column, given, without_mirrors)
    return PackageDownloads(package, with_mirrors, without_mirrors, breakdowns)


def _check_period(place: str, values: Mapping[str, Any], period: Period) -> None:
    column, given_day = DAY_COLUMN, values.get(DAY_COLUMN)
    if isinstance(period, Month):
        if given_day is not None:
            raise MalformedDumpError(
                f"the file of {period} has a day", place=place, value=given_day
            )
        column = MONTH_COLUMN
    given, wanted = values.get(column), str(period)
    # Some programs add a time to a date, and the date of a month is its first day.
    if given is not None and str(given)[: len(wanted)] != wanted:
        raise MalformedDumpError(f"{column} differs from {period}", place=place, value=given)


def _checked_counts(place: str, column: str, given: object, downloads: int) -> Counts:
    counts: Mapping[str, Any] = given if type(given) is dict else _merged(place, column, given)
    if None in counts.values():
        # Some programs write null for categories that only other rows have.
        counts = {category: count for category, count in counts.items() if count is not None}
    fault = fault_of_counts(column, counts)
    if fault and all(type(count) is int for count in counts.values()):
        counts = respelled(column, counts)
        fault = fault_of_counts(column, counts)
    if fault:
        raise MalformedDumpError(fault.kind, place=place, value=fault.value)
    total = sum(counts.values())
    if total != downloads:
        raise MalformedDumpError(
            f"{column} {NO_SUM}", place=place, value=f"{total:,} instead of {downloads:,}"
        )
    return counts


def _merged(place: str, column: str, pairs: object) -> dict[str, Any]:
    """Convert a list of pairs to counts. Each pair is an object or a list with two values."""
    counts: dict[str, Any] = {}
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        values = list(pair.values()) if isinstance(pair, dict) else pair
        if not (isinstance(values, list) and len(values) == 2 and type(values[0]) is str):
            raise MalformedDumpError(
                f"{column} should be an object of counts by category", place=place, value=pairs
            )
        category, count = values
        if category in counts:
            raise MalformedDumpError(f"{column} has a category twice", place=place, value=category)
        counts[category] = count
    return counts


def parse_json(place: str, text: bytes) -> Any:
    """Parse JSON in which no object has a key twice. Raises `MalformedDumpError`."""

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                message = "a key appears twice in an object"
                raise MalformedDumpError(message, place=place, value=key)
            values[key] = value
        return values

    try:
        value = orjson.loads(text)
        # If rendering the value gives a text of the same length, no key was dropped. Otherwise use
        # Python's parser, which reports all keys, but takes ten times as long.
        if len(orjson.dumps(value)) != len(text):
            json.loads(text, object_pairs_hook=unique, parse_int=str)
    except (ValueError, RecursionError) as error:
        message = f"not valid JSON: {first_line(error)}"
        raise MalformedDumpError(message, place=place, value=text) from None
    return value


def first_line(error: Exception) -> str:
    """Return the first line of another library's message, which may be long."""
    return str(error).strip().partition("\n")[0][:200]
