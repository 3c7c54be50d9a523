"""Every entry of the registry of breakdowns is complete, from the source to the documentation."""

import json
import re

import httpx
import pytest
from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import connect
from app.domain.breakdowns import (
    BREAKDOWNS,
    NULL_CATEGORY,
    OPTIONAL_BREAKDOWNS,
    OTHER_CATEGORY,
    Breakdown,
)
from app.ingest.sources.sample import SampleSource
from app.main import Service
from tests.bigquery_table import DAY
from tests.days import days_ago, downloads, optional_counts, publish, rows_of
from tests.ingest.sources.test_bigquery import OPTIONAL_RULES
from tests.processes import ROOT
from tests.waiting import until

BY_NAME = pytest.mark.parametrize("breakdown", BREAKDOWNS, ids=lambda one: one.name)


@BY_NAME
def test_entry(breakdown: Breakdown) -> None:
    assert re.fullmatch("[a-z]+(_[a-z]+)*", breakdown.name)
    assert all(column in breakdown.expression for column in breakdown.source_columns)
    assert list(breakdown.examples) == sorted(breakdown.examples)
    assert len(breakdown.examples) > 1
    if isinstance(breakdown.categories, tuple):
        assert {NULL_CATEGORY, OTHER_CATEGORY} & set(breakdown.categories)
    else:
        assert breakdown.filter_example
    if not breakdown.category_of:
        assert all(map(breakdown.is_category, breakdown.examples))
    if breakdown.is_optional:
        assert breakdown.name == breakdown.column, "INGEST_BREAKDOWNS and days name the same"


def test_names_are_unique() -> None:
    assert len({breakdown.name for breakdown in BREAKDOWNS}) == len(BREAKDOWNS)
    columns = [breakdown.column for breakdown in OPTIONAL_BREAKDOWNS]
    assert len(set(columns)) == len(columns)


async def test_columns_are_in_the_migrated_database(engine: AsyncEngine) -> None:
    async with connect(engine) as connection:
        for table in ("daily_downloads", "held_downloads"):
            found = await connection.run_sync(lambda sync: inspect(sync).get_columns(table))  # noqa: B023
            columns = {column["name"] for column in found}
            missing = {breakdown.column for breakdown in BREAKDOWNS} - columns
            assert not missing, "add a migration"


@pytest.mark.parametrize("breakdown", OPTIONAL_BREAKDOWNS, ids=lambda one: one.name)
def test_rules_have_cases(breakdown: Breakdown) -> None:
    rules = OPTIONAL_RULES.get(breakdown, [])
    assert len({category for _, category in rules}) > 1, "add values to OPTIONAL_RULES"


@BY_NAME
async def test_the_sample_has_several_categories(breakdown: Breakdown) -> None:
    (row, *_) = await rows_of(await SampleSource().read(DAY))
    counts = row.breakdowns.get(breakdown.column, {})
    assert len(counts) > 1, "add sample_shares to the entry"
    assert all(map(breakdown.is_category, counts))
    assert sum(counts.values()) == row.without_mirrors


@BY_NAME
def test_documentation(breakdown: Breakdown) -> None:
    path = f"/api/packages/{{package}}/{breakdown.name}"
    assert path in json.loads((ROOT / "openapi.json").read_text())["paths"], "run make openapi"
    assert f"`{path}`" in (ROOT / "docs" / "breakdowns.md").read_text(), "run make docs"
    settings = (ROOT / "docs" / "configuration.md").read_text()
    assert f"`{breakdown.name}`" in settings or not breakdown.is_optional, "run make docs"


async def test_every_breakdown_is_served(
    app: Service, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await publish(engine, days_ago(0), downloads("flask", 3, mirrors=0, **optional_counts(3)))
    await until(lambda: app.dispatcher.publication_watch.publication)
    for breakdown in BREAKDOWNS:
        response = await client.get(f"/api/packages/flask/{breakdown.name}")
        assert response.status_code == 200
        (item,) = response.json()["data"]
        assert (item["date"], item["downloads"]) == (str(days_ago(0)), 3)
        if breakdown.is_optional:
            assert item["category"] == breakdown.examples[0]
