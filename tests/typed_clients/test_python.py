"""The Python client that openapi-python-client makes of openapi.json."""

import ast
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT
from tests.typed_clients.conftest import (
    DOCUMENT,
    HERE,
    answered,
    checked,
    operations,
    with_breakdowns,
)

GENERATE = (
    "openapi-python-client generate --path openapi.json --meta none"
    " --config openapi-python-client.yml"
)

COMMON_CLASSES = {"AuthenticatedClient", "Client", "File", "Response", "UnexpectedStatus", "Unset"}
"""Classes that the generator writes for every document."""

COMMENT = "    # The test inserts calls here, for each breakdown of the registry.\n"
CALL = """
    from pypi_stats_client import models
    from pypi_stats_client.api.{tag} import get_{name}

    {name} = get_{name}.sync("requests", client=client{everything})
    assert isinstance({name}, models.{title}Downloads)
    assert _sum({name}.data) == recent.data.last_month
    {name}_part = get_{name}.sync("requests", client=client, {argument}={value})
    assert isinstance({name}_part, models.{title}Downloads)
    assert {name}_part.data == [item for item in {name}.data if item.category == "{category}"]
"""
MEMBER = "models.{title}Category.{member}"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    # The generator and the formatter that it runs are installed beside Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONWARNINGS": "error"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """Generate the client without warnings, and return its folder."""
    folder = tmp_path_factory.mktemp("python")
    for path in (DOCUMENT, ROOT / "openapi-python-client.yml"):
        (folder / path.name).write_text(path.read_text())
    command = [*shlex.split(GENERATE), "--fail-on-warning"]
    assert checked(command, folder, environment) == f"Generating {folder}/pypi_stats_client\n"
    return folder


def _classes(package: Path) -> set[str]:
    return {
        node.name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def test_classes_are_the_schemas_of_the_document(folder: Path, document: dict[str, Any]) -> None:
    schemas = {
        name
        for name, schema in document["components"]["schemas"].items()
        if "enum" in schema or schema.get("type") == "object"
    }
    assert "RecentDownloads" in schemas
    assert _classes(folder) == schemas | COMMON_CLASSES


def test_modules_are_the_operations_and_schemas(folder: Path, document: dict[str, Any]) -> None:
    package = folder / "pypi_stats_client"
    modules = {
        str(path.relative_to(package).with_suffix(""))
        for path in package.rglob("*.py")
        if path.stem != "__init__"
    }
    tagged = {
        f"api/{operation.get('tags', ['default'])[0]}/{operation['operationId']}"
        for path in document["paths"].values()
        for operation in path.values()
    }
    schemas = {f"models/{_snake_case(name)}" for name in _classes(folder) - COMMON_CLASSES}
    assert modules == tagged | schemas | {"client", "errors", "types"}
    for name in operations(document):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)


def test_types_hold_and_every_operation_answers(
    folder: Path, environment: dict[str, str], document: dict[str, Any], address: str
) -> None:
    program = with_breakdowns(
        (HERE / "calls.py").read_text(), COMMENT, CALL, ', {argument}="all"', MEMBER
    )
    (folder / "calls.py").write_text(program)
    mypy = "mypy --config-file= --strict --package pypi_stats_client --module calls"
    assert checked(shlex.split(mypy), folder, environment).startswith("Success: no issues found")
    printed = checked(["python", "calls.py", address], folder, environment)
    assert answered(document, printed) == set(operations(document))
