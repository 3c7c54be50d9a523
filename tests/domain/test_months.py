"""Months are stored in fewer bytes, without losing a count."""

from datetime import date
from random import Random

import orjson
import pytest

from app.domain.months import (
    days_of_month,
    following_month,
    month_of,
    ordered_categories,
    pack,
    unpack,
)

CATEGORIES = ["3.12", "3.13", "2.7", "null"]
POSITIONS = {category: position for position, category in enumerate(CATEGORIES)}


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({}, "[]"),
        ({"3.12": 5}, "[5]"),
        ({"2.7": 1, "3.12": 5}, "[5,0,1]"),
        ({"null": 1}, "[0,0,0,1]"),
        ({"9.9": 1, "3.12": 5}, '{"3.12":5,"9.9":1}'),
    ],
)
def test_the_stored_form_of_counts(counts: dict[str, int], text: str) -> None:
    assert pack(counts, POSITIONS) == text
    assert unpack(orjson.loads(text), CATEGORIES) == counts


def test_any_counts_are_stored_without_loss() -> None:
    random = Random(2018)
    names = [str(number) for number in range(200)]
    for _ in range(500):
        chosen = random.sample(names, random.randrange(30))
        counts = {name: random.randrange(1, 10**9) for name in chosen}
        categories = random.sample(names, random.choice([0, 10, 200]))
        positions = {name: position for position, name in enumerate(categories)}
        text = pack(counts, positions)
        assert unpack(orjson.loads(text), categories) == counts
        as_object = orjson.dumps(counts, option=orjson.OPT_SORT_KEYS)
        assert len(text) <= len(as_object)


def test_rare_categories_come_last() -> None:
    assert ordered_categories({"b": 1, "a": 1, "c": 9}) == ["c", "a", "b"]


@pytest.mark.parametrize("month", [date(2025, 12, 1), date(2024, 2, 1), date(2026, 2, 1)])
def test_the_days_of_a_month(month: date) -> None:
    days = days_of_month(month)
    assert {month_of(day) for day in days} == {month}
    assert days[0] == month
    assert (following_month(month) - days[-1]).days == 1
    assert len(days) == {12: 31, 2: 29 if month.year == 2024 else 28}[month.month]
