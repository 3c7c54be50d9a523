"""The document that clients are generated from."""

from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from app.api import schemas
from app.main import create_app
from app.settings import Settings

OTHERS = ("index", "status", "health", "readiness", "metrics")

SERIES = {
    "recent": "RecentDownloads",
    "overall": "OverallDownloads",
    "python_major": "PythonMajorDownloads",
    "python_minor": "PythonMinorDownloads",
    "system": "SystemDownloads",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(), "postgresql:///unused").openapi()


def test_operations_have_short_names(document: dict[str, Any]) -> None:
    names = {
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    }
    assert names == {f"get_{name}" for name in (*SERIES, *OTHERS)}


@pytest.mark.parametrize("endpoint", SERIES)
def test_each_answer_has_its_schema(document: dict[str, Any], endpoint: str) -> None:
    operation = document["paths"][f"/api/packages/{{package}}/{endpoint}"]["get"]
    answers = operation["responses"]
    assert set(answers) == {"200", "404", "422", "429", "500", "503"}
    schema = {"$ref": f"#/components/schemas/{SERIES[endpoint]}"}
    assert answers["200"]["content"] == {"application/json": {"schema": schema}}
    for status in set(answers) - {"200"}:
        problem = {"$ref": "#/components/schemas/Problem"}
        assert answers[status]["content"] == {"application/problem+json": {"schema": problem}}
    assert operation["description"]
    assert all(parameter["description"] for parameter in operation["parameters"])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Period", ["day", "week", "month"]),
        ("Mirrors", ["true", "false"]),
        ("OperatingSystem", ["windows", "linux", "darwin", "other", "null"]),
    ],
)
def test_arguments_are_enumerated(document: dict[str, Any], name: str, values: list[str]) -> None:
    assert document["components"]["schemas"][name]["enum"] == values


def test_components_have_names_of_ours(document: dict[str, Any]) -> None:
    assert set(document["components"]["schemas"]) == {
        *SERIES.values(),
        *("DailyDownloads", "Fault", "Health", "Index", "Mirrors", "OperatingSystem", "Period"),
        *("Problem", "Readiness", "RecentCounts", "Status"),
    }


def test_examples_are_what_they_are_examples_of(document: dict[str, Any]) -> None:
    for name in SERIES.values():
        (example,) = document["components"]["schemas"][name]["examples"]
        TypeAdapter(getattr(schemas, name)).validate_python(example)


def test_recent_counts_are_left_out_and_never_null(document: dict[str, Any]) -> None:
    counts = document["components"]["schemas"]["RecentCounts"]
    assert "required" not in counts
    for key in ("last_day", "last_week", "last_month"):
        assert counts["properties"][key]["type"] == "integer"
        assert "default" not in counts["properties"][key]


async def test_the_document_is_served(client: httpx.AsyncClient) -> None:
    assert (await client.get("/openapi.json")).json()["info"]["title"] == "PyPI Stats API"
