"""The document that clients are generated from."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate
from pydantic import BaseModel, TypeAdapter
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.dumps import Dumps
from app.api.problem_details import Problem
from app.domain.breakdowns import BREAKDOWNS
from app.domain.clock import utc_now
from app.main import Service, create_app
from app.settings import Settings
from tests.api.payloads import PAYLOADS, SERIES_PAYLOADS
from tests.clock import ManualClock
from tests.days import days_ago, downloads, optional_counts, publish
from tests.waiting import until_known

ENUMERATIONS = {
    f"{one.title}Category": list(one.categories)
    for one in BREAKDOWNS
    if isinstance(one.categories, tuple)
}

SERIES = {path: payload.__name__ for path, payload in SERIES_PAYLOADS.items()}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(), "postgresql:///unused").openapi()


def test_operations_have_short_names(document: dict[str, Any]) -> None:
    """Clients derive the names of functions from them. `openapi.json` lists all."""
    names = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("get_[a-z_]+", name) for name in names)
    assert {f"get_{name}" for name in (*SERIES, "bulk_recent", "top", "status")} < set(names)


@pytest.mark.parametrize("endpoint", SERIES)
def test_each_response_has_a_schema(document: dict[str, Any], endpoint: str) -> None:
    operation = document["paths"][f"/api/packages/{{package}}/{endpoint}"]["get"]
    answers = operation["responses"]
    errors = {"404", "416", "422", "429", "500", "503"}
    assert set(answers) == {"200", "206", "304", *errors}
    schema = {"$ref": f"#/components/schemas/{SERIES[endpoint]}"}
    formats = answers["200"]["content"]
    assert formats["application/json"] == {"schema": schema}
    assert set(formats) == {"application/json", "text/csv"}
    # With other content, generated calls would be untyped.
    assert answers["206"]["content"] == formats
    assert answers["304"]["content"]["text/plain"]["schema"]["maxLength"] == 0
    for status in errors:
        ((media_type, problem),) = answers[status]["content"].items()
        assert media_type == "application/problem+json"
        assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}
        Problem.model_validate(problem["example"])
        assert problem["example"]["status"] == int(status)
        assert problem["example"]["request_id"]
        assert ("errors" in problem["example"]) == (status == "422")
    assert operation["description"]
    assert all(parameter["description"] for parameter in operation["parameters"])
    # Swagger UI fills it in; an argument that may be left out is left out.
    filled_in = {
        parameter["name"]: parameter.get("example") for parameter in operation["parameters"]
    }
    # Arguments of all series come after those of this one.
    own = {"recent": 2, "overall": 2}.get(endpoint, 1)
    assert [*filled_in][1 + own] == "format"
    assert filled_in.pop("package") == "requests"
    assert not any(filled_in.values())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Period", ["day", "week", "month"]),
        ("RankedPeriod", ["day", "week", "month", "all"]),
        ("BadgePeriod", ["day", "week", "month", "total"]),
        ("Mirrors", ["true", "false"]),
        *ENUMERATIONS.items(),
    ],
)
def test_arguments_are_enumerated(document: dict[str, Any], name: str, values: list[str]) -> None:
    assert document["components"]["schemas"][name]["enum"] == values


def test_optional_arguments_are_not_nullable(document: dict[str, Any]) -> None:
    parameters = [
        parameter
        for operations in document["paths"].values()
        for parameter in operations["get"].get("parameters", ())
    ]
    assert {parameter["name"] for parameter in parameters if not parameter["required"]} == {
        *("period", "mirrors", *(one.argument for one in BREAKDOWNS)),
        *("start_date", "end_date", "fill", "interval", "rolling", "format"),
        *("limit", "cursor", "month", "sum", "since"),
    }
    for parameter in parameters:
        assert {"type", "$ref"} & parameter["schema"].keys()
        assert "anyOf" not in parameter["schema"]


def test_components_have_our_own_names(document: dict[str, Any]) -> None:
    schemas = set(document["components"]["schemas"])
    assert {*SERIES.values(), "Problem", "Fault", "SystemCategory"} < schemas
    assert all(re.fullmatch("([A-Z][a-z0-9]+)+", name) for name in schemas)
    assert not schemas & {"HTTPValidationError", "ValidationError"}


def test_examples_match_their_schemas(document: dict[str, Any]) -> None:
    models: list[type[BaseModel]] = [*PAYLOADS.values(), Dumps]
    for model in models:
        (example,) = document["components"]["schemas"][model.__name__]["examples"]
        TypeAdapter(model).validate_python(example)


def _schemas(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _schemas(one)


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)
    for schema in _schemas(document):
        assert schema.get("type") != "number" or schema["format"] == "double"
        if schema.get("type") == "integer":
            assert schema["format"] == "int64"
            assert {type(schema.get(bound, 0)) for bound in ("minimum", "maximum")} == {int}
        assert not {"ge", "gt", "le", "lt"} & schema.keys()
        if isinstance(pattern := schema.get("pattern"), str):
            assert all(re.search(pattern, example) for example in schema.get("examples", ()))
            # JavaScript has no other anchors.
            assert not re.search(r"\\[zZA]", pattern)


def test_recent_counts_are_optional_and_not_nullable(document: dict[str, Any]) -> None:
    counts = document["components"]["schemas"]["RecentCounts"]
    assert "required" not in counts
    for key in ("last_day", "last_week", "last_month"):
        assert counts["properties"][key]["type"] == "integer"
        assert "default" not in counts["properties"][key]


async def test_the_document_is_served(client: httpx.AsyncClient) -> None:
    assert (await client.get("/openapi.json")).json()["info"]["title"] == "PyPI Stats API"


def _description(**settings: str) -> str:
    app = create_app(Settings.model_validate(settings), "postgresql:///unused")
    description: str = app.openapi()["info"]["description"]
    return description


def test_the_guide_contains_the_settings() -> None:
    description = _description(
        retention_days="90",
        mirror_installers="first,second",
        bigquery_table="a.b.c",
        rate_limits="7/second;500/2 hours",
    )
    for part in (
        "90 days",
        "`first`, `second`",
        "`a.b.c`",
        "7 requests per second and 500 requests per 2 hours",
    ):
        assert part in description
    assert "{" not in description


def test_the_guide_mentions_no_limit_if_there_is_none() -> None:
    assert "429" in _description()
    assert "limit" not in _description(rate_limits="").lower()


async def test_documented_headers_are_sent(database_url: str) -> None:
    app = create_app(Settings(rate_limits="1/hour"), database_url)
    told = set(re.findall(r"`(X-[A-Za-z-]+|Retry-After)`", app.openapi()["info"]["description"]))
    # The first is sent while there is data, and clients send the other.
    told -= {"X-Data-As-Of", "X-API-Key"}
    assert len(told) == 5
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for status in (404, 429):
            response = await client.get("/api/nothing")
            assert response.status_code == status
    assert [header for header in told if header not in response.headers] == []


@pytest.mark.parametrize("settings", [Settings(rate_limits="10000/hour")])
async def test_responses_have_the_documented_headers(
    app: Service,
    document: dict[str, Any],
    client: httpx.AsyncClient,
    engine: AsyncEngine,
    clock: ManualClock,
) -> None:
    row = downloads("zope-interface", 1, mirrors=0, **optional_counts(1))
    await publish(engine, days_ago(0), row)
    # Last-Modified is left out while it is ahead of the clock.
    clock.now = utc_now() + timedelta(minutes=5)
    await until_known(app)
    for template, operations in document["paths"].items():
        required = {
            parameter["name"]: parameter["example"]
            for parameter in operations["get"].get("parameters", ())
            if parameter["required"] and parameter["in"] == "query"
        }
        path = (
            template.replace("{package}", "zope-interface")
            .replace("{period}", "month")
            .replace("{breakdown}", "system")
        )
        # Each encoding has a tag of its own.
        response = await client.get(path, params=required, headers={"Accept-Encoding": "identity"})
        # Nothing was exported.
        assert response.status_code == (404 if "{name}" in path else 200)
        responses = [response]
        if "etag" in response.headers:
            for name, value in (
                ("If-None-Match", response.headers["etag"]),
                ("Range", "bytes=0-0"),
                ("Range", "bytes=99999-"),
            ):
                headers = {name: value, "Accept-Encoding": "identity"}
                responses.append(await client.get(path, params=required, headers=headers))
        documented = operations["get"]["responses"]
        conditional = {"206", "304", "416"} & documented.keys()
        statuses = {str(one.status_code) for one in responses}
        assert statuses - {"200"} == conditional or "{name}" in path, path
        for response in responses:
            for name in documented[str(response.status_code)]["headers"]:
                # Revalidated responses and stored badges do not count.
                is_optional = name.startswith("X-RateLimit") and response is not responses[0]
                assert is_optional or name in response.headers, (path, response.status_code, name)


def test_the_404_of_a_dump_has_its_own_description(document: dict[str, Any]) -> None:
    missing = document["paths"]["/api/dumps/{name}"]["get"]["responses"]["404"]
    assert missing["description"].startswith("There is no such dump")
    example = missing["content"]["application/problem+json"]["example"]
    assert example["detail"] == missing["description"]
